// A picture of each node as the page draws it, cut out of a screenshot.
import { join } from "node:path"

import { answer, input, openPage } from "./page.mjs"

const AROUND = 12
const { browser, page } = await openPage()
// only the node: no panels over it, and no grid behind it
await page.addStyleTag({ content: ".side-tool-bar-container, .graph-canvas-menu, .minimap-main-container, .p-toast { display: none !important }" })
for (const kind of input.kinds) {
  const box = await page.evaluate((kind) => {
    const { app, LiteGraph } = window
    for (const one of [...app.graph.nodes]) app.graph.remove(one)
    const node = LiteGraph.createNode(kind)
    node.pos = [0, 0]
    app.graph.add(node)
    node.setSize([Math.max(300, node.size[0]), node.computeSize()[1]])
    app.canvas.deselectAll()
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [620, 220]
    app.canvas.setDirty(true, true)
    return { x: 620, y: 220 - LiteGraph.NODE_TITLE_HEIGHT, width: node.size[0], height: node.size[1] + LiteGraph.NODE_TITLE_HEIGHT }
  }, kind)
  await page.mouse.move(20, 400)
  await page.waitForTimeout(700)
  const canvas = await page.locator("#graph-canvas").boundingBox()
  const clip = { x: canvas.x + box.x - AROUND, y: canvas.y + box.y - AROUND, width: box.width + 2 * AROUND, height: box.height + 2 * AROUND }
  await page.screenshot({ path: join(input.folder, `${kind}.jpg`), type: "jpeg", quality: 85, clip })
}
answer(input.kinds)
await browser.close()
