"""The common parts of this pack's workflows: a model, one size, comparisons of several models' pictures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .graph import Graph, Output, Subgraph
from .published import asset_url, release_assets

NOTE_WIDTH = 420
LETTERS, LINE = 76, 14  # of a note: letters in a line, pixels a line
PICTURE = (440, 330)  # a preview of some pictures
START, COMPARE = "Start here", "Compare"

PLAYGROUND, BOOK = "playground.safetensors", "picture_book.safetensors"


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn: their size and number, KSampler's settings, what Flux has of its own."""

    width: int
    height: int
    pictures: int
    sampling: dict = field(default_factory=dict)
    latent: str = "EmptyLatentImage"
    guidance: float | None = None

    @property
    def size(self) -> dict[str, int]:
        """Width and height, as many nodes call them."""
        return {"width": self.width, "height": self.height}

    @property
    def settings(self) -> dict[str, object]:
        """All of KSampler's widgets."""
        start = {"seed": 7, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
        return start | self.sampling


SMALL = Drawing(64, 64, 8, {"steps": 12, "cfg": 3.0})
"""For the small worlds."""
SIZE, SAMPLING = SMALL.size, SMALL.settings


@dataclass(frozen=True)
class Loaded:
    """The loaders' outputs."""

    model: Output
    clip: Output
    vae: Output


class Sheet:
    """A graph with a note and a model, in its first column."""

    def __init__(
        self, name: str, object_info: dict, note: str, drawing: Drawing = SMALL, needs: Iterable[str] = (PLAYGROUND,)
    ) -> None:
        self.graph = Graph(name, object_info)
        self.drawing, self.add, self.group = drawing, self.graph.add, self.graph.group
        text = "\n\n".join([note.strip(), *filter(None, [_where_from(needs)])])
        self.add("MarkdownNote", 0, "What this shows", {"text": text}, size=(NOTE_WIDTH, _height(text)))
        self.group(START, 0)

    def checkpoint(self, name: str = PLAYGROUND) -> Sheet:
        """Load the model from one file."""
        self._have(*self.add("CheckpointLoaderSimple", 0, values={"ckpt_name": name}))
        return self

    def flux(self, unet: str, texts: tuple[str, str], vae: str) -> Sheet:
        """Load Flux from its parts."""
        (model,) = self.add("UNETLoader", 0, values={"unet_name": unet, "weight_dtype": "default"})
        values = {"clip_name1": texts[0], "clip_name2": texts[1], "type": "flux"}
        (clip,) = self.add("DualCLIPLoader", 0, values=values)
        self._have(model, clip, *self.add("VAELoader", 0, values={"vae_name": vae}))
        return self

    def _have(self, model: Output, clip: Output, vae: Output) -> None:
        self.model, self.clip, self.vae = model, clip, vae

    def erase(
        self, column: int, title: str = "", links: Mapping[str, Output] | None = None, **values: object
    ) -> list[Output]:
        """Erase Concept on the loaded model; the concept is "circle" if `values` name no other."""
        links = {"model": self.model, "clip": self.clip, **(links or {})}
        has_settings = any(name.startswith("method.") for name in values)
        values = self.drawing.size | {"concepts": "circle"} | ({"preset": "custom"} if has_settings else {}) | values
        return self.add("ErasureEraseConcept", column, title, values, links)

    def apply(self, column: int, model: Output, edit: Output, title: str = "", strength: float = 1.0) -> Output:
        """`edit` on `model`."""
        links = {"model": model, "erased_unet": edit}
        return self.add("ErasureApplyErasedUNet", column, title, {"strength": strength}, links)[0]

    def save(self, column: int, edit: Output, prefix: str) -> None:
        """A file for `edit`."""
        self.add("ErasureSaveErasedUNet", column, "", {"filename_prefix": prefix}, {"erased_unet": edit}, (0, 140))

    def report(self, column: int, text: Output, title: str = "Report") -> None:
        """A box that shows `text`."""
        self.add("PreviewAny", column, title, None, {"source": text}, (0, 300))

    def show(self, column: int, images: Output, title: str, size: tuple[int, int] = PICTURE) -> None:
        """Pictures, only shown."""
        self.add("PreviewImage", column, title, None, {"images": images}, size)

    def compare(self, models: dict[str, Output], prompts: Iterable[str], column: int, save: str = "") -> None:
        """For each prompt, what every model (by its title) draws from the same noise; saved under the prefix `save` or only
        shown. One subgraph draws a prompt; the pictures of one prompt stand beside it, or below each other if there is but
        one prompt."""
        part = comparison(self.graph, list(models), self.drawing)
        prompts = list(prompts)
        below = len(prompts) == 1
        for prompt in prompts:
            links = {**models, "clip": self.clip, "vae": self.vae}
            drawn = self.graph.use(part, column, prompt, {"prompt": prompt}, links, (0, PICTURE[1]))
            for row, (when, images) in enumerate(zip(models, drawn, strict=True)):
                prefix = f"{save}/{when}_{prompt.replace(' ', '_')}"
                kind, values = ("SaveImage", {"filename_prefix": prefix}) if save else ("PreviewImage", None)
                place = column + 1 + (0 if below else row)
                self.add(kind, place, f"{when}: {prompt}", values, {"images": images}, PICTURE)
        self.group(COMPARE, *range(column, column + 2 + (0 if below else len(models) - 1)))


def book_sheet(name: str, object_info: dict, note: str, needs: Iterable[str] = (), drawing: Drawing = SMALL) -> Sheet:
    """A sheet with the picture book loaded, which also needs the files `needs`."""
    return Sheet(name, object_info, note, drawing, (BOOK, *needs)).checkpoint(BOOK)


def comparison(graph: Graph, models: list[str], drawing: Drawing, name: str = "") -> Subgraph:
    """A subgraph that draws one prompt with several models from the same noise; its inputs are the models by their titles,
    CLIP, VAE, the prompt and a seed, its outputs their pictures."""
    part = graph.part(name or f"Draw {', '.join(models)}")
    given = [part.input(title, "MODEL") for title in models]
    clip, vae = part.input("clip", "CLIP"), part.input("vae", "VAE")
    draw_pairs(part, dict(zip(models, given, strict=True)), Loaded(given[0], clip, vae), drawing)
    return part


def draw_pairs(part: Subgraph, models: dict[str, Output], loaded: Loaded, drawing: Drawing, first: int = 0) -> None:
    """Fill a subgraph with what draws one prompt with each model, from its column `first` on."""
    prompt = part.widget("prompt", "CLIPTextEncode", "text", "")
    seed = part.widget("seed", "KSampler", "seed", drawing.settings["seed"])
    links = {"clip": loaded.clip, "text": prompt}
    (positive,) = part.add("CLIPTextEncode", first, "Prompt", {"text": ""}, links, (0, 140))
    (negative,) = part.add("CLIPTextEncode", first, "Negative prompt", {"text": ""}, {"clip": loaded.clip}, (0, 140))
    (latent,) = part.add(drawing.latent, first, values=drawing.size | {"batch_size": drawing.pictures})
    if drawing.guidance is not None:
        (positive,) = part.add("FluxGuidance", first, "", {"guidance": drawing.guidance}, {"conditioning": positive})
    for title, model in models.items():
        links = {"model": model, "positive": positive, "negative": negative, "latent_image": latent, "seed": seed}
        (sampled,) = part.add("KSampler", first + 1, f"KSampler, {title}", drawing.settings, links)
        links = {"samples": sampled, "vae": loaded.vae}
        (images,) = part.add("VAEDecode", first + 2, f"VAE Decode, {title}", None, links, (220, 262))
        part.output(title, images)


def _where_from(needs: Iterable[str]) -> str:
    """Where the published files go that a workflow needs, one a line."""
    lines = []
    for name in needs:
        asset = release_assets()[name]
        unpack = "unpacked into" if asset["file"].endswith(".zip") else "in"
        lines.append(f"- [{asset['file']}]({asset_url(name)}) {unpack} `models/{asset['directory']}`")
    return "\n".join(["**Files it needs** (then press R):", *lines]) if lines else ""


def _height(text: str) -> int:
    """About what a note needs to show all its text."""
    seen = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    return 60 + LINE * sum(-(-max(1, len(line)) // LETTERS) for line in seen.splitlines())
