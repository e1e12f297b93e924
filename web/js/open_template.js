// From the Templates dialog the page shows the whole workflow, too small to be read. Ours open at the view that is saved
// in them, as they do when their file is opened. The mark is taken off, so that this happens once.
import { app } from "../../../scripts/app.js"

const MARK = "concept_erasure_template"

app.registerExtension({
  name: "ConceptErasure.OpenTemplate",
  afterConfigureGraph() {
    const extra = (app.rootGraph ?? app.graph).extra
    if (!extra?.[MARK] || !extra.ds) return
    delete extra[MARK]
    app.canvas.ds.scale = extra.ds.scale
    app.canvas.ds.offset = [...extra.ds.offset]
    app.canvas.setDirty(true, true)
  },
})
