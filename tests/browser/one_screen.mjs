// What one sees of the pack's nodes in a browser, in both renderers of the front end.
//
//   node tests/browser/one_screen.mjs URL [FOLDER FOR SCREENSHOTS]
//
// URL is that of a running ComfyUI with this pack. Needs `playwright-core` where node finds it (NODE_PATH does not count
// for ES modules: set PLAYWRIGHT_CORE to the package's folder), and a Chromium: $CHROMIUM, else /usr/bin/chromium.
// Prints one JSON object with what was found and ends with 1 if anything is not as it should be.

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const [url, pictures] = process.argv.slice(2);
const folder = process.env.PLAYWRIGHT_CORE;
const { chromium } = await import(folder ? pathToFileURL(join(folder, "index.mjs")).href : "playwright-core");
const here = dirname(fileURLToPath(import.meta.url));
const SAVED = JSON.parse(readFileSync(join(here, "before_presets.json"), "utf8"));

const MOST = { ErasureEraseConcept: 8, ErasureEvaluate: 9, ErasureRedTeam: 9, ErasureRedTeamSummary: 9 };
MOST.ErasureFindAdversarialConcept = 7;
const failures = [];
const check = (right, what) => right || failures.push(what);
const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

/** Functions that run in the page, on `window.t`. */
function tools() {
  const { app } = window;
  const widget = (node, name) => node.widgets.find((one) => one.name === name);
  window.t = {
    widget,
    values: (node) => node.widgets.filter((w) => w.serialize !== false).map((w) => w.value),
    shown: (node) => node.widgets.filter((w) => node.isWidgetVisible(w) && w.type !== "button").map((w) => w.name),
    add: (type) => {
      // Not clear(): a new node under an old id would get the old widgets' values.
      for (const one of [...app.graph.nodes]) app.graph.remove(one);
      const node = window.LiteGraph.createNode(type);
      node.pos = [80, 80];
      app.graph.add(node);
      app.canvas.ds.scale = 1;
      app.canvas.ds.offset = [60, 60];
      app.canvas.deselectAll();
      app.canvas.setDirty(true, true);
      return node;
    },
    /** What a click in either renderer does: the value, then the callback. */
    set: (node, name, value) => {
      const one = widget(node, name);
      one.value = value;
      one.callback?.(value, app.canvas, node);
    },
    pick: (node, names) => Object.fromEntries(names.map((name) => [name, widget(node, name)?.value])),
    node: (type) => app.graph.nodes.find((one) => one.type === type),
  };
}

async function opened(browser, vue) {
  const page = await browser.newPage();
  const errors = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  await ready(page);
  await page.evaluate(async (on) => {
    const { setting } = window.app.extensionManager;
    await setting.set("Comfy.TutorialCompleted", true); // else the Templates dialog opens over everything
    await setting.set("Comfy.Workflow.Persist", false);
    await setting.set("Comfy.VueNodes.Enabled", on);
  }, vue);
  await ready(page);
  await page.evaluate(tools);
  return { page, errors };
}

async function ready(page) {
  await page.goto(url, { waitUntil: "domcontentloaded" });
  const there = () => window.app?.graph && window.LiteGraph?.registered_node_types?.ErasureEraseConcept;
  await page.waitForFunction(there, null, { timeout: 120000 });
  await page.waitForTimeout(2000);
}

const settled = (page) => page.waitForTimeout(600);

async function picture(page, name) {
  if (pictures) await page.screenshot({ path: join(pictures, `${name}.png`) });
}

/** Widgets that the Vue renderer has drawn in the one node of the graph, by their labels, as the page shows them. */
const drawn = (page) =>
  page.evaluate(() => {
    const rows = [...document.querySelectorAll(".lg-node-widget, [data-testid='node-widget']")];
    return rows.filter((row) => row.getBoundingClientRect().height > 0).map((row) => row.innerText.split("\n")[0]);
  });

async function counts(page, vue, found) {
  for (const [type, most] of Object.entries(MOST)) {
    await page.evaluate((name) => void window.t.add(name), type);
    await settled(page);
    const shown = vue ? await drawn(page) : await page.evaluate((name) => window.t.shown(window.t.node(name)), type);
    found[type] = shown;
    check(shown.length > 0 && shown.length <= most, `${type} shows ${shown.length} widgets, at most ${most} are right`);
    await picture(page, `${vue ? "vue" : "classic"}_${type}`);
  }
}

/** The one choice: shows everything, hides it again, is saved, and leaves no gap in the classic canvas. */
async function advanced(page, vue, found) {
  await page.evaluate(() => void window.t.add("ErasureEraseConcept"));
  await settled(page);
  const few = vue ? await drawn(page) : await page.evaluate(() => window.t.shown(window.t.node("ErasureEraseConcept")));
  const before = await page.evaluate(() => [...window.t.node("ErasureEraseConcept").size]);
  const press = async () => {
    if (vue) await page.getByText(/(show|hide) advanced/i).first().evaluate((text) => text.closest("button").click());
    else await page.evaluate(() => window.t.widget(window.t.node("ErasureEraseConcept"), "advanced").callback());
    await settled(page);
  };
  await press();
  await picture(page, `${vue ? "vue" : "classic"}_advanced`);
  const all = vue ? await drawn(page) : await page.evaluate(() => window.t.shown(window.t.node("ErasureEraseConcept")));
  const saved = await page.evaluate(() => window.app.graph.serialize().nodes[0].showAdvanced);
  await press();
  const again = vue ? await drawn(page) : await page.evaluate(() => window.t.shown(window.t.node("ErasureEraseConcept")));
  const size = await page.evaluate(() => [...window.t.node("ErasureEraseConcept").size]);
  found.advanced = { few: few.length, all: all.length, size: before };
  check(all.length >= few.length + 20, `advanced shows ${all.length} widgets of ap beside ${few.length}`);
  check(saved === true, "the choice is not saved with the node");
  check(same(few, again), "hiding again does not show what stood there before");
  if (!vue) check(same(before, size), `the node is ${size} high after showing and hiding, it was ${before}`);
}

/** Every method and preset: what the schema says is what the widgets hold; a change by hand makes it custom. */
async function presets(page, found) {
  const wrong = await page.evaluate(async () => {
    const { t } = window;
    const input = (await (await fetch("/object_info/ErasureEraseConcept")).json()).ErasureEraseConcept.input;
    const { settings, concepts } = input.optional.preset[1];
    const { labels } = input.required.method[1];
    const bad = [];
    for (const method of Object.keys(settings)) {
      const node = t.add("ErasureEraseConcept");
      t.set(node, "method", method);
      const said = t.widget(node, "method").options.getOptionLabel(method);
      if (said !== labels[method] || !said.endsWith(`(${method})`)) bad.push(`${method} is called ${said}`);
      const visible = t.shown(node);
      if (visible.length > 8) bad.push(`${method} shows ${visible.join(", ")}`);
      if (t.widget(node, "preset").value !== "object, balanced") bad.push(`${method} starts as custom`);
      for (const [preset, values] of Object.entries(settings[method])) {
        t.set(node, "concepts", "");
        t.set(node, "preset", preset);
        for (const [name, value] of Object.entries(values)) {
          const has = t.widget(node, `method.${name}`)?.value;
          if (has !== value) bad.push(`${method}, ${preset}: ${name} is ${has}, not ${value}`);
        }
        if (t.widget(node, "concepts").value !== (concepts[preset] ?? "")) bad.push(`${preset}: concepts`);
        if (t.widget(node, "preset").value !== preset) bad.push(`${method}: ${preset} does not stay`);
      }
      t.set(node, "preset", "style, thorough");
      t.set(node, "concepts", "mine");
      const [name, value] = Object.entries(settings[method]["style, thorough"]).find(([, one]) => typeof one === "number") ?? [];
      if (name) {
        t.set(node, `method.${name}`, value + 1);
        if (t.widget(node, "preset").value !== "custom") bad.push(`${method}: a changed ${name} is still called a preset`);
        t.set(node, "preset", "custom");
        if (t.widget(node, `method.${name}`).value !== value + 1) bad.push(`${method}: custom changed ${name}`);
      }
      t.set(node, "preset", "nudity, quick");
      if (t.widget(node, "concepts").value !== "mine") bad.push("a preset wrote over concepts");
      t.set(node, "method", method === "ap" ? "esd" : "ap");
      const other = settings[method === "ap" ? "esd" : "ap"]["nudity, quick"];
      for (const [one, right] of Object.entries(other)) {
        if (t.widget(node, `method.${one}`).value !== right) bad.push(`${method}: the next method has not the preset's ${one}`);
      }
    }
    return { bad, methods: Object.keys(settings).length, presets: Object.keys(settings.ap).length };
  });
  found.presets = wrong;
  wrong.bad.forEach((what) => failures.push(what));
}

/** Saved and loaded again: the same widgets, values, size and prompt. */
async function reloaded(page, found) {
  const result = await page.evaluate(async () => {
    const { t, app } = window;
    const node = t.add("ErasureEraseConcept");
    t.set(node, "method", "mace");
    t.set(node, "preset", "nudity, quick");
    t.set(node, "strength", 0.8);
    t.set(node, "retain", "man\nwoman");
    node.setSize([460, 700]);
    const state = async () => {
      const one = t.node("ErasureEraseConcept");
      const { inputs } = (await app.graphToPrompt()).output[one.id];
      return { values: t.values(one), shown: t.shown(one), size: [...one.size], inputs };
    };
    const before = await state();
    const file = JSON.parse(JSON.stringify(app.graph.serialize()));
    await app.loadGraphData(file);
    return { before, afterwards: await state(), file: file.nodes[0].widgets_values };
  });
  found.reloaded = { inputs: result.before.inputs, widgets_values: result.file };
  check(same(result.before, result.afterwards), `reloading changed ${JSON.stringify(result)}`);
  check(result.before.inputs.strength === 0.8 && result.before.inputs.preset === "nudity, quick", "the prompt lacks inputs");
  check(result.before.inputs["method.steps"] === 15, "the prompt has not the preset's steps");
  check(!("advanced" in result.before.inputs), "the button is in the prompt");
}

/** A workflow saved before there were presets keeps every value, gets strength 1, and no preset that is not its own. */
async function older(page, vue, found) {
  const result = await page.evaluate(async (saved) => {
    await window.app.loadGraphData(saved);
    const node = window.t.node("ErasureEraseConcept");
    const { inputs } = (await window.app.graphToPrompt()).output[node.id];
    return { values: window.t.values(node), again: window.app.graph.serialize().nodes[0].widgets_values, size: [...node.size], inputs, shown: window.t.shown(node) };
  }, SAVED.workflow);
  await settled(page);
  await picture(page, `${vue ? "vue" : "classic"}_older`);
  const saved = SAVED.workflow.nodes[0].widgets_values;
  check(same(result.values, [...saved, "custom", 1]), `an older workflow's values became ${result.values}`);
  check(same(result.values, result.again), `an older workflow is saved again as ${result.again}`);
  check(same(result.inputs, { ...SAVED.inputs, preset: "custom", strength: 1 }), "an older workflow has another prompt");
  check(result.shown.length <= 8, `an older workflow shows ${result.shown}`);
  if (!vue) check(same(result.size, SAVED.size), `an older workflow's node is ${result.size}, it was ${SAVED.size}`);
  found.older = { size: result.size, values: result.values.length };
}

/** A linked setting is shown, and hidden again when the link goes. */
async function linked(page, found) {
  const shown = await page.evaluate(() => {
    const { t, app } = window;
    const node = t.add("ErasureEraseConcept");
    const source = window.LiteGraph.createNode("PrimitiveInt");
    app.graph.add(source);
    const slot = node.inputs.findIndex((input) => input.name === "method.steps");
    source.connect(0, node, slot);
    const during = t.shown(node);
    node.disconnectInput(slot);
    return { during, afterwards: t.shown(node) };
  });
  found.linked = shown;
  check(shown.during.includes("method.steps"), "a linked setting is hidden");
  check(!shown.afterwards.includes("method.steps"), "a setting stays when its link goes");
}

const profile = mkdtempSync(join(tmpdir(), "one_screen_"));
const flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  headless: true,
  viewport: { width: 1300, height: 1300 },
  args: [...flags, "--disable-component-update", "--disable-sync"],
});
const found = {};
try {
  for (const vue of [false, true]) {
    const here = (found[vue ? "vue" : "classic"] = {});
    const { page, errors } = await opened(browser, vue);
    await counts(page, vue, here);
    await advanced(page, vue, here);
    await older(page, vue, here);
    if (!vue) {
      await presets(page, here);
      await reloaded(page, here);
      await linked(page, here);
    }
    check(errors.length === 0, `the page said: ${errors.join("; ")}`);
    await page.close();
  }
} finally {
  await browser.close();
  rmSync(profile, { recursive: true, force: true });
}
console.log(JSON.stringify({ ok: failures.length === 0, failures, found }, null, 1));
process.exitCode = failures.length ? 1 : 0;
