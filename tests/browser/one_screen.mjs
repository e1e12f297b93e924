// What one sees of the pack's nodes in a browser, in both renderers of the front end.
// `devtools.serving.browser` runs it; it hands back what was found, and what is not as it should be.

import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { answer, input } from "../../devtools/page.mjs";
import { drawn, opened, settled, started } from "./canvas.mjs";

const { url, shots: pictures } = input;
const here = dirname(fileURLToPath(import.meta.url));
const SAVED = JSON.parse(readFileSync(join(here, "before_presets.json"), "utf8"));

const MOST = { ErasureEraseConcept: 8, ErasureEvaluate: 9, ErasureRedTeam: 9, ErasureRedTeamSummary: 9 };
MOST.ErasureFindAdversarialConcept = 8;
const failures = [];
const check = (right, what) => right || failures.push(what);
const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

async function picture(page, name) {
  if (pictures) await page.screenshot({ path: join(pictures, `${name}.png`) });
}

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

/** A workflow saved before there were presets keeps every value, gets strength 1, and no preset that is not its own. It had
 *  the setting `schedule`: `fast` is what `ap` does, `reference` the method `ap_reference`. */
async function older(page, vue, found) {
  const [node] = SAVED.workflow.nodes;
  const names = node.inputs.filter((input) => input.widget).map((input) => input.name);
  const at = names.indexOf("method.schedule");
  for (const [schedule, method] of Object.entries({ fast: "ap", reference: "ap_reference" })) {
    const workflow = structuredClone(SAVED.workflow);
    workflow.nodes[0].widgets_values[at] = schedule;
    const result = await page.evaluate(async (saved) => {
      await window.app.loadGraphData(saved);
      const node = window.t.node("ErasureEraseConcept");
      const { inputs } = (await window.app.graphToPrompt()).output[node.id];
      const again = window.app.graph.serialize().nodes[0];
      const sockets = node.inputs.map((input) => input.name);
      return { values: window.t.values(node), again: again.widgets_values, size: [...node.size], inputs, sockets, shown: window.t.shown(node) };
    }, workflow);
    await settled(page);
    await picture(page, `${vue ? "vue" : "classic"}_older_${schedule}`);
    const info = (await (await fetch(`${url}/object_info/ErasureEraseConcept`)).json()).ErasureEraseConcept.input;
    const { required } = info.required.method[1].options.find((option) => option.key === method).inputs;
    const has = (name) => !name.startsWith("method.") || name.slice("method.".length) in required;
    const values = node.widgets_values.filter((_, place) => has(names[place] ?? "")).map((value) => (value === "ap" ? method : value));
    const inputs = Object.fromEntries(Object.entries(SAVED.inputs).filter(([name]) => has(name)));
    const what = `a workflow with schedule ${schedule}`;
    check(!has("method.schedule"), "the setting is still there");
    check(same(result.values, [...values, "custom", 1]), `${what}: its values became ${result.values}`);
    check(same(result.values, result.again), `${what} is saved again as ${result.again}`);
    check(same(result.inputs, { ...inputs, method, preset: "custom", strength: 1 }), `${what}: ${JSON.stringify(result.inputs)}`);
    check(!result.sockets.some((name) => !has(name)), `${what} has the sockets ${result.sockets}`);
    check(result.shown.length <= 8, `${what} shows ${result.shown}`);
    const [width, height] = [SAVED.size[0], found.advanced.size[1]];
    if (!vue) check(same(result.size, [width, height]), `${what}: its node is ${result.size}, not as high as a new one`);
    found[`older_${schedule}`] = { size: result.size, values: result.values.length };
  }
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

/** A link dropped on a row reaches that row's input, not one of a hidden widget. */
async function dropped(page, found) {
  await page.evaluate(() => void window.t.add("ErasureEraseConcept").toggleAdvanced());
  await settled(page);
  await page.evaluate(() => window.t.node("ErasureEraseConcept").toggleAdvanced());
  await settled(page);
  found.dropped = await page.evaluate(() => {
    const node = window.t.node("ErasureEraseConcept");
    const rows = node.widgets.filter((widget) => node.isWidgetVisible(widget) && widget.type !== "button");
    return rows.map((widget) => {
      const at = [node.pos[0] + 8, node.pos[1] + widget.y + 8];
      const hits = node.inputs.filter((_, slot) => {
        const [x, y] = node.getInputPos(slot);
        return Math.abs(x - at[0]) < 10 && Math.abs(y - at[1]) < 10;
      });
      return [widget.name, ...hits.map((input) => input.name)];
    });
  });
  for (const row of found.dropped) check(row.length === 2 && row[0] === row[1], `the row of ${row[0]} has the inputs ${row}`);
}

/** With the mouse, in the Vue renderer: what a preset fills in stands on the page. */
async function clicked(page, found) {
  await page.evaluate(() => void (window.t.add("ErasureEraseConcept").showAdvanced = true));
  await settled(page);
  const row = (name) => page.locator(".lg-node-widget").filter({ hasText: new RegExp(`^\\s*${name}`) }).first();
  const choose = async (name, option) => {
    await row(name).getByRole("combobox").click();
    await page.getByRole("option", { name: option }).first().click();
    await settled(page);
  };
  const stands = async () => [await row("vocabulary").innerText(), await row("steps").locator("input").first().inputValue()];
  await choose("preset", "style, quick");
  const style = await stands();
  await choose("method", "(age)");
  const age = await stands();
  await row("steps").locator("button").last().click();
  await settled(page);
  const byHand = await row("preset").innerText();
  found.clicked = { style, age, byHand };
  for (const one of [style, age]) check(one[0].includes("art_styles") && one[1] === "50", `style, quick shows ${one}`);
  check(byHand.includes("custom"), `a setting changed by hand leaves ${byHand}`);
}

const browser = await started();
const found = {};
try {
  for (const vue of [false, true]) {
    const here = (found[vue ? "vue" : "classic"] = {});
    const { page, errors } = await opened(browser, url, vue);
    await counts(page, vue, here);
    await advanced(page, vue, here);
    await older(page, vue, here);
    await presets(page, here);
    if (vue) await clicked(page, here);
    else {
      await reloaded(page, here);
      await linked(page, here);
      await dropped(page, here);
    }
    check(errors.length === 0, `the page said: ${errors.join("; ")}`);
    await page.close();
  }
} catch (error) {
  failures.push(String(error.stack));
} finally {
  await browser.close();
}
answer({ failures, found });
