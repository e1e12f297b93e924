// A headless Chromium on the page of a running ComfyUI; `devtools.serving.browser` starts the scripts that use it.
import { readFileSync } from "node:fs"
import { createRequire } from "node:module"

const { chromium } = createRequire(process.env.CE_PLAYWRIGHT)("playwright-core")

export const input = JSON.parse(readFileSync(0, "utf8"))
export const VIEW = { width: 1600, height: 1000 }

/** A browser with a profile of its own. The flags keep it from asking anybody on the internet. */
export async function launched() {
  const quiet = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
  return chromium.launch({ executablePath: process.env.CE_CHROMIUM, args: ["--no-sandbox", "--disable-gpu", ...quiet] })
}

/** Open the page and wait until its graph is there. `errors` fills with what the page's code throws. */
export async function openPage() {
  // otherwise the page covers itself with the Templates dialog on its first visit
  await fetch(`${input.url}/api/settings/Comfy.TutorialCompleted`, { method: "POST", body: "true" })
  const browser = await launched()
  const page = await browser.newPage({ viewport: VIEW })
  const errors = []
  page.on("pageerror", (error) => errors.push(String(error)))
  await page.goto(input.url)
  await page.waitForFunction(() => window.app?.graph && window.LiteGraph?.registered_node_types.KSampler, null, { timeout: 60000 })
  await page.locator("#splash-loader").waitFor({ state: "detached", timeout: 60000 }).catch(() => {})
  return { browser, page, errors }
}

/** Load a workflow as if its file had been opened, and let the page settle. */
export async function load(page, workflow, name) {
  await page.evaluate(([workflow, name]) => window.app.loadGraphData(workflow, true, true, name), [workflow, name])
  await page.waitForTimeout(400)
}

/** In the page: pairs of nodes that lie over each other, in the workflow and in each of its subgraphs. */
export function overlapping() {
  const graph = window.app.rootGraph ?? window.app.graph
  const title = window.LiteGraph.NODE_TITLE_HEIGHT
  const apart = (a, b) =>
    a.pos[0] + a.size[0] <= b.pos[0] || b.pos[0] + b.size[0] <= a.pos[0] ||
    a.pos[1] + a.size[1] <= b.pos[1] - title || b.pos[1] + b.size[1] <= a.pos[1] - title
  return [graph, ...graph.subgraphs.values()].flatMap((level) =>
    level.nodes.flatMap((one, row) => level.nodes.slice(row + 1).filter((other) => !apart(one, other)).map((other) => [one.title, other.title])))
}

/** The last line of the output is what `devtools.serving.browser` hands back. */
export function answer(value) {
  console.log(JSON.stringify(value))
}
