"""Workflows for the user's own checkpoint, with the size and sampling of its family, and the blueprints."""

from __future__ import annotations

from .graph import Graph
from .sheet import Drawing, Loaded, Sheet, draw_pairs

SD15 = Drawing(512, 512, 2, {"steps": 25, "cfg": 7.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"})
SDXL = Drawing(1024, 1024, 1, {"steps": 30, "cfg": 6.5, "sampler_name": "dpmpp_2m", "scheduler": "karras"})
FLUX = Drawing(
    1024, 1024, 1, {"steps": 20, "cfg": 1.0, "scheduler": "simple"}, latent="EmptySD3LatentImage", guidance=3.5
)
CONCEPT = "cat"
PROMPTS = ("a photo of a cat on a sofa", "a photo of a dog on a sofa")
CHOOSE = {
    "sd15": "1. Choose **your Stable Diffusion 1.5 checkpoint** in Load Checkpoint.",
    "sdxl": "1. Choose **your SDXL checkpoint** in Load Checkpoint.",
    "flux": "1. Choose **your Flux.1 dev files** in the three loaders: model, CLIP-L and T5, VAE.",
}
NOTE = """\
{choose}
2. Write what to erase into `concepts` of **Erase Concept**, and the two prompts; press **Run**.

Erase Concept patches a copy: the file on disk stays as it is. The pictures compare both models on the same noise: \
above what is erased, below what must stay. The edit goes to `output/loras/erased`; any Load LoRA node takes it.
{cost}"""
COST = {
    "sd15": "On an H200 the erasure took about a minute in 3 GB over the loaded model; a smaller card takes longer.",
    "sdxl": "On an H200 the erasure took about three minutes in 8 GB over the loaded model; a smaller card takes longer.",
    "flux": "Flux has not been timed at full size yet: start with few `steps`, and look at the preview.",
}


def sd15(object_info: dict) -> dict:
    """Erase and compare on a Stable Diffusion 1.5 checkpoint."""
    sheet = _sheet("sd15", object_info, SD15).checkpoint("v1-5-pruned-emaonly-fp16.safetensors")
    return _erase_and_compare(sheet)


def sdxl(object_info: dict) -> dict:
    """Erase and compare on an SDXL checkpoint."""
    return _erase_and_compare(_sheet("sdxl", object_info, SDXL).checkpoint("sd_xl_base_1.0.safetensors"))


def flux(object_info: dict) -> dict:
    """Erase and compare on Flux.1 dev."""
    texts = ("clip_l.safetensors", "t5xxl_fp16.safetensors")
    return _erase_and_compare(_sheet("flux", object_info, FLUX).flux("flux1-dev.safetensors", texts, "ae.safetensors"))


def _sheet(family: str, object_info: dict, drawing: Drawing) -> Sheet:
    note = NOTE.format(choose=CHOOSE[family], cost=COST[family])
    return Sheet(family, object_info, note, drawing, needs=())


def _erase_and_compare(sheet: Sheet) -> dict:
    erased, edit, _, report = sheet.erase(1, links={"vae": sheet.vae}, concepts=CONCEPT)
    sheet.group("Erase", 1)
    sheet.save(2, edit, f"erased/{CONCEPT}")
    sheet.report(2, report)
    sheet.group("Keep and read", 2)
    sheet.compare({"before": sheet.model, "after": erased}, PROMPTS, 3, "erase_and_compare")
    return sheet.graph.workflow()


def erase_and_compare_blueprint(object_info: dict) -> dict:
    """One node that erases and draws before and after; set up for SD 1.5."""
    graph = Graph("blueprint/erase_and_compare", object_info)
    part = graph.part("Erase and compare")
    model, clip, vae = (part.input(name.lower(), name) for name in ("MODEL", "CLIP", "VAE"))
    concepts = part.widget("concepts", "ErasureEraseConcept", "concepts", CONCEPT)
    links = {"model": model, "clip": clip, "vae": vae, "concepts": concepts}
    erased, edit, _, report = part.add("ErasureEraseConcept", 0, "", SD15.size | {"concepts": CONCEPT}, links)
    for name, output in {"erased model": erased, "erased_unet": edit, "report": report}.items():
        part.output(name, output)
    draw_pairs(part, {"before": model, "after": erased}, Loaded(model, clip, vae), SD15, first=1)
    graph.use(part, 0, values={"prompt": PROMPTS[0]})
    return graph.workflow()


def erase_and_measure_blueprint(object_info: dict) -> dict:
    """One node that erases and measures what came of it; set up for SD 1.5."""
    graph = Graph("blueprint/erase_and_measure", object_info)
    part = graph.part("Erase and measure")
    model, clip, vae = (part.input(name.lower(), name) for name in ("MODEL", "CLIP", "VAE"))
    judge = part.input("judge", "CONCEPT_JUDGE")
    concepts = part.widget("concepts", "ErasureEraseConcept", "concepts", CONCEPT)
    links = {"model": model, "clip": clip, "vae": vae, "concepts": concepts}
    erased, edit, _, _ = part.add("ErasureEraseConcept", 0, "", SD15.size | {"concepts": CONCEPT}, links)
    retained = part.widget("retain_prompts", "ErasureEvaluate", "retain_prompts", PROMPTS[1])
    links = {"model": model, "erased_model": erased, "clip": clip, "vae": vae, "judge": judge, "erased_unet": edit}
    links |= {"concepts": concepts, "retain_prompts": retained}
    sampling = {key: SD15.settings[key] for key in ("steps", "cfg", "sampler_name", "scheduler")}
    values = SD15.size | sampling | {"concepts": CONCEPT, "retain_prompts": PROMPTS[1]}
    grid, chart, report, scored = part.add("ErasureEvaluate", 1, "", values, links)
    outputs = {"erased model": erased, "erased_unet": scored, "pictures": grid, "scores": chart, "report": report}
    for name, output in outputs.items():
        part.output(name, output)
    graph.use(part, 0)
    return graph.workflow()
