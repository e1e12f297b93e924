// What an artist does with a workflow on the page: run, watch, change, save, open again, cancel. `input.act` says which.
import { mkdirSync } from "node:fs"
import { answer, input, load, openPage, overlapping } from "../../devtools/page.mjs"

mkdirSync(input.shots, { recursive: true })
const { browser, page, errors } = await openPage()
const shot = (name) => page.screenshot({ path: `${input.shots}/${name}.png`, timeout: 120000 })

/** Note in the page what the server tells it and what it shows of it. */
async function watch() {
  await page.evaluate(() => {
    const seen = (window.seen = { progress: {}, previews: [], ended: "", outputs: {}, started: [], bar: [] })
    const api = window.app.api
    for (const end of ["execution_success", "execution_error", "execution_interrupted"])
      api.addEventListener(end, (event) => { seen.ended = end; seen.said = event.detail?.exception_message ?? "" })
    api.addEventListener("executing", (event) => event.detail && seen.started.push(String(event.detail?.node ?? event.detail)))
    api.addEventListener("progress", ({ detail }) => (seen.progress[detail.node] ??= []).push(detail.value / detail.max))
    api.addEventListener("executed", ({ detail }) => (seen.outputs[detail.node] = detail.output))
    window.watching = setInterval(() => {
      for (const node of (window.app.rootGraph ?? window.app.graph).nodes) {
        if (node.progress !== undefined) seen.bar.push([String(node.id), node.progress])
        const picture = window.app.nodePreviewImages?.[node.id]?.[0] ?? node.imgs?.[0]?.src
        if (picture?.startsWith("blob:") && !seen.previews.some((one) => one[1] === picture)) seen.previews.push([String(node.id), picture])
      }
    }, 50)
  })
}

/** Give every widget of this name this value, inside subgraphs too, as if it had been typed. */
async function set(values) {
  await page.evaluate((values) => {
    const graph = window.app.rootGraph ?? window.app.graph
    const nodes = [graph, ...graph.subgraphs.values()].flatMap((level) => level.nodes)
    for (const node of nodes)
      for (const [name, value] of Object.entries(values)) {
        const widget = node.widgets?.find((one) => one.name === name)
        if (widget) { widget.value = value; widget.callback?.(value, window.app.canvas, node) }
      }
  }, values)
}

const run = () => page.getByRole("button", { name: "Run", exact: true }).first().click()
const node = (kind) => page.evaluate((kind) => String((window.app.rootGraph ?? window.app.graph).nodes.find((one) => one.type === kind).id), kind)
const prompt = () => page.evaluate(async () => (await window.app.graphToPrompt()).output)
const ended = (how, seconds) => page.waitForFunction((how) => window.seen.ended && (!how || window.seen.ended === how), how, { timeout: seconds * 1000 })
const progressed = (id, seconds) => page.waitForFunction((id) => window.seen.progress[id]?.length > 1, id, { timeout: seconds * 1000 })

/** Press Run and wait for the end. */
async function runToTheEnd(name) {
  await watch()
  await run()
  await page.waitForFunction(() => window.seen.bar.length > 0 || window.seen.ended, null, { timeout: 240000 })
  await shot(`${name}, running`)
  await ended(null, 280)
  await page.evaluate(() => window.app.extensionManager.command.execute("Comfy.Canvas.FitView")) // pictures are read when they are seen
  await page.waitForFunction(() => (window.app.rootGraph ?? window.app.graph).nodes.every((node) => !window.seen.outputs[node.id]?.images || node.imgs?.length), null, { timeout: 60000 }).catch(() => {})
  await shot(`${name}, done`)
  const over = await page.evaluate(overlapping)
  const seen = await page.evaluate(() => {
    clearInterval(window.watching)
    const shown = Object.fromEntries((window.app.rootGraph ?? window.app.graph).nodes.map((node) => [node.title, { id: String(node.id), pictures: node.imgs?.length ?? 0, text: (node.widgets ?? []).map((one) => String(one.value)).join("\n") }]))
    return { ...window.seen, shown }
  })
  return { ...seen, overlapping: over }
}

const acts = {
  async run() {
    await load(page, input.workflow, input.name)
    await set(input.quick)
    return { ...(await runToTheEnd(input.name)), erase: await node("ErasureEraseConcept") }
  },

  /** Every method of Erase Concept, one after the other: what the page would post. */
  async methods() {
    await load(page, input.workflow, input.name)
    const posted = {}
    for (const method of input.methods) {
      await set({ method })
      await page.waitForTimeout(100)
      const erase = Object.values(await prompt()).find((one) => one.class_type === "ErasureEraseConcept")
      const size = await page.evaluate(() => { const one = window.app.graph.nodes.find((node) => node.type === "ErasureEraseConcept"); return [one.size[1], one.computeSize()[1]] })
      posted[method] = { inputs: Object.keys(erase.inputs), size }
    }
    await shot("after all methods")
    return posted
  },

  /** Save under a name, load the page anew, open the file: is it the same prompt? */
  async save() {
    await load(page, input.workflow, "saved by a test")
    await set({ "method": "esd", "seed": 11 })
    await page.waitForTimeout(200)
    const before = await prompt()
    await page.locator("#graph-canvas").focus().catch(() => {})
    await page.keyboard.press("Control+s")
    const box = page.getByRole("dialog").getByRole("textbox")
    if (await box.waitFor({ timeout: 3000 }).then(() => true, () => false)) {
      await box.fill("saved by a test")
      await page.keyboard.press("Enter")
    }
    await page.waitForTimeout(1500)
    const stored = await (await fetch(`${input.url}/api/userdata/${encodeURIComponent("workflows/saved by a test.json")}`)).json()
    await page.reload()
    await page.waitForFunction(() => window.app?.graph && window.LiteGraph?.registered_node_types.KSampler, null, { timeout: 60000 })
    await page.waitForTimeout(1500)
    await load(page, stored, "saved by a test")
    await shot("saved and opened again")
    return { before, after: await prompt() }
  },

  /** Press the button that cancels while an erasure runs, then run again. */
  async cancel() {
    await load(page, input.workflow, input.name)
    await set(input.slow)
    await watch()
    await run()
    await progressed(await node("ErasureEraseConcept"), 200)
    await page.getByTestId("cancel-current-job").or(page.getByRole("button", { name: /cancel|interrupt/i })).first().click()
    await ended("execution_interrupted", 60)
    await shot("cancelled")
    const cancelled = await page.evaluate(() => window.seen.ended)
    await set(input.quick)
    const again = await runToTheEnd("after a cancelled run")
    return { cancelled, again: again.ended, said: again.said }
  },

  /** Take a blueprint from the node library and put it on the canvas. */
  async blueprint() {
    await page.evaluate(() => window.app.graph.clear())
    await page.mouse.click(900, 400)
    await page.keyboard.press("n")
    await page.getByPlaceholder(/Search/).first().fill(input.title)
    const entry = page.getByText(input.title, { exact: true }).first()
    await entry.waitFor({ timeout: 30000 })
    await entry.click()
    await page.mouse.move(900, 400)
    await page.waitForTimeout(1000)
    await page.mouse.click(900, 400)
    await page.waitForTimeout(500)
    await shot(`placed ${input.title}`)
    return { placed: await page.evaluate(() => window.app.graph.nodes.map((one) => one.subgraph?.name ?? one.type)) }
  },

  /** A file that a workflow names is not there: what the page says of it, and the links of the note. */
  async missing() {
    await load(page, input.workflow, input.name)
    await page.getByRole("button", { name: "View details" }).click()
    await page.getByText("Missing Models").first().waitFor({ timeout: 20000 })
    await shot("a missing file")
    const links = await page.evaluate(() => [...document.querySelectorAll("a[href]")].map((one) => one.href))
    return { said: await page.evaluate(() => document.body.innerText), links }
  },

  /** From the Templates dialog to a running erasure, counting what has to be chosen. */
  async template() {
    const choices = []
    await page.keyboard.press("Escape")
    await page.getByRole("button", { name: "Templates" }).first().click()
    await page.getByPlaceholder("Search").first().fill(input.title)
    const found = page.getByText(input.title, { exact: true }).first()
    await found.waitFor({ timeout: 60000 })
    await shot("the templates dialog")
    await found.click()
    choices.push(input.title)
    await page.waitForFunction(() => window.app.graph.nodes.some((one) => one.type === "ErasureEraseConcept"), null, { timeout: 20000 })
    await page.waitForTimeout(1000)
    await shot("the template is open")
    const scale = await page.evaluate(() => window.app.canvas.ds.scale)
    const spot = await page.evaluate(() => {
      const loader = window.app.graph.nodes.find((one) => one.type === "CheckpointLoaderSimple")
      const { scale, offset } = window.app.canvas.ds
      const frame = window.app.canvas.canvas.getBoundingClientRect()
      const at = [loader.pos[0] + loader.size[0] / 2, loader.pos[1] + loader.widgets[0].last_y + 10]
      return { x: frame.x + (at[0] + offset[0]) * scale, y: frame.y + (at[1] + offset[1]) * scale }
    })
    await page.mouse.click(spot.x, spot.y)
    await page.waitForTimeout(500)
    await shot("the list of checkpoints")
    await page.locator(".litemenu-entry", { hasText: input.checkpoint }).first().click()
    choices.push(input.checkpoint)
    await watch()
    await run()
    choices.push("Run")
    const erase = await node("ErasureEraseConcept")
    await page.waitForFunction((erase) => window.seen.started.includes(erase) || window.seen.ended, erase, { timeout: 200000 })
    await page.waitForTimeout(1000)
    await shot("the erasure runs")
    const seen = await page.evaluate(() => ({ ended: window.seen.ended, started: window.seen.started }))
    await page.evaluate(() => window.app.api.interrupt(null))
    await ended(null, 120)
    return { choices, erase, scale, ...seen }
  },
}

const result = await acts[input.act]()
answer({ ...result, errors })
await browser.close()
