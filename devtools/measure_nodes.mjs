// For every node of some workflows: its class or subgraph, its choices, and the least size that the page draws it at.
import { answer, input, load, openPage } from "./page.mjs"

const { browser, page } = await openPage()
const found = []
for (const [name, workflow] of Object.entries(input.workflows)) {
  await load(page, workflow, name)
  found.push(
    ...(await page.evaluate(() => {
      const graph = window.app.rootGraph ?? window.app.graph
      const nodes = [...graph.nodes, ...[...graph.subgraphs.values()].flatMap((part) => part.nodes)]
      return nodes.map((node) => ({
        kind: node.subgraph?.name ?? node.type,
        values: Object.fromEntries((node.widgets ?? []).map((widget) => [widget.name, widget.value])),
        least: Array.from(node.computeSize()),
        size: Array.from(node.size),
      }))
    })),
  )
}
answer(found)
await browser.close()
