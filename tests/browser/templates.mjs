// Every template and blueprint on the page: what is missing, red, overlapping or too small, and what would be posted.
import { mkdirSync } from "node:fs"
import { answer, input, load, openPage, overlapping } from "../../devtools/page.mjs"

mkdirSync(input.shots, { recursive: true })
const { browser, page, errors } = await openPage()
const seen = {}
for (const [name, workflow] of Object.entries(input.workflows)) {
  errors.length = 0
  await load(page, workflow, name)
  seen[name] = await page.evaluate(async () => {
    const app = window.app
    const graph = app.rootGraph ?? app.graph
    const parts = [...graph.subgraphs.values()]
    const all = [...graph.nodes, ...parts.flatMap((part) => part.nodes)]
    const box = (node) => [node.pos[0], node.pos[1] - window.LiteGraph.NODE_TITLE_HEIGHT, node.pos[0] + node.size[0], node.pos[1] + node.size[1]]
    const apart = (a, b) => a[2] <= b[0] || b[2] <= a[0] || a[3] <= b[1] || b[3] <= a[1]
    const outside = graph.nodes.filter((node) => !graph.groups.some((group) => {
      const [x, y, width, height] = group._bounding ?? group.bounding
      const [left, top, right, bottom] = box(node)
      return left >= x && top >= y && right <= x + width && bottom <= y + height
    }))
    const groups = graph.groups.map((group) => {
      const [x, y, width, height] = group._bounding ?? group.bounding
      return [x, y, x + width, y + height]
    })
    const note = [...document.querySelectorAll(".comfy-markdown .tiptap")].find((element) => element.offsetParent)
    return {
      prompt: (await app.graphToPrompt()).output,
      missing: all.filter((node) => node.has_errors || !(node.type in window.LiteGraph.registered_node_types || node.subgraph)).map((node) => node.type),
      red: all.filter((node) => node.has_errors || (node.bgcolor && /f00|red/i.test(node.bgcolor))).map((node) => node.title),
      groupsOverlap: groups.some((one, row) => groups.slice(row + 1).some((other) => !apart(one, other))),
      outside: outside.map((node) => node.title),
      sizes: all.map((node) => ({ id: String(node.id), kind: node.type, title: node.title, size: Array.from(node.size), least: Array.from(node.computeSize()) })),
      note: note && { scrolls: note.scrollHeight - note.clientHeight, lines: [note.clientHeight, note.lastElementChild?.offsetTop + note.lastElementChild?.offsetHeight], letter: parseFloat(getComputedStyle(note).fontSize) },
      scale: app.canvas.ds.scale,
      offset: Array.from(app.canvas.ds.offset),
      dialogs: [...document.querySelectorAll("[role=dialog]")].filter((one) => one.offsetParent).map((one) => one.innerText.slice(0, 300)),
      toasts: [...document.querySelectorAll(".p-toast-message")].map((one) => one.innerText),
    }
  })
  seen[name].overlapping = await page.evaluate(overlapping)
  seen[name].errors = [...errors]
  await page.screenshot({ path: `${input.shots}/${name}.png` })
}
answer(seen)
await browser.close()
