// Nodes on ComfyUI's page in either renderer, and what one does with them.

import { launched } from "../../devtools/page.mjs";

export { launched as started };

/** Functions that run in the page, on `window.t`. */
function tools() {
  const { app } = window;
  const widget = (node, name) => node.widgets.find((one) => one.name === name);
  window.t = {
    widget,
    values: (node) => node.widgets.filter((w) => w.serialize !== false).map((w) => w.value),
    /** Newer front ends draw the row of a linked widget without the widget. */
    shown: (node) => {
      const row = node.isWidgetRowVisible ?? node.isWidgetVisible;
      return node.widgets.filter((w) => row.call(node, w) && w.type !== "button").map((w) => w.name);
    },
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

/** A page with an empty graph in the one or the other renderer, and what went wrong in it so far. */
export async function opened(browser, url, vue) {
  const page = await browser.newPage({ viewport: { width: 1300, height: 1300 } });
  const errors = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  await ready(page, url);
  await page.evaluate(async (on) => {
    const { setting } = window.app.extensionManager;
    await setting.set("Comfy.TutorialCompleted", true); // else the Templates dialog opens over everything
    await setting.set("Comfy.Workflow.Persist", false);
    await setting.set("Comfy.VueNodes.Enabled", on);
  }, vue);
  await ready(page, url);
  await page.evaluate(tools);
  return { page, errors };
}

async function ready(page, url) {
  await page.goto(url, { waitUntil: "domcontentloaded" });
  const there = () => window.app?.graph && window.LiteGraph?.registered_node_types?.ErasureEraseConcept;
  await page.waitForFunction(there, null, { timeout: 120000 });
  await page.waitForTimeout(2000);
}

export const settled = (page) => page.waitForTimeout(600);

/** Widgets that the Vue renderer has drawn in the one node of the graph, by their labels, as the page shows them. */
export const drawn = (page) =>
  page.evaluate(() => {
    const rows = [...document.querySelectorAll(".lg-node-widget, [data-testid='node-widget']")];
    return rows.filter((row) => row.getBoundingClientRect().height > 0).map((row) => row.innerText.split("\n")[0]);
  });
