"""What the workflows of this pack have in common: one checkpoint, one size, rows of sampled pictures."""

from __future__ import annotations

from ..graph import Graph, Output, Place

SAMPLING = {"seed": 7, "steps": 12, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
SIZE = {"width": 64, "height": 64}
PICTURES = (440, 240)  # eight small pictures in a row or two
ROW = 320  # from one row of pictures to the next

Prompt = tuple[str, Output]
"""What a prompt says, and its conditioning."""


class Sheet:
    """A graph with the stock nodes that every workflow here needs."""

    def __init__(self, name: str, object_info: dict, note: str, note_height: int) -> None:
        self.graph = Graph(name, object_info)
        self.add = self.graph.add
        self.add("MarkdownNote", (0, 0), (340, note_height), "What this shows", {"text": note})
        y = note_height + 50
        values = {"ckpt_name": "playground.safetensors"}
        self.model, self.clip, self.vae = self.add("CheckpointLoaderSimple", (0, y), (340, 98), values=values)
        values = SIZE | {"batch_size": 8}
        (self.latent,) = self.add("EmptyLatentImage", (0, y + 148), (340, 106), "Empty Latent: 8 pictures", values)

    def prompts(self, place: Place, texts: dict[str, str]) -> list[Prompt]:
        """Prompts by their titles, below each other, and under them the negative prompt of all that is sampled here."""
        x, y = place
        links, added = {"clip": self.clip}, []
        for row, (title, text) in enumerate({**texts, "Negative prompt": ""}.items()):
            (conditioning,) = self.add("CLIPTextEncode", (x, y + 160 * row), (340, 110), title, {"text": text}, links)
            added.append((text, conditioning))
        _, self.nothing = added.pop()
        return added

    def erase(
        self, place: Place, height: int, title: str = "", links: dict[str, Output] | None = None, **values: object
    ) -> list[Output]:
        """Erase Concept on the loaded model; the concept is "circle" if `values` name no other."""
        links = {"model": self.model, "clip": self.clip} | (links or {})
        values = SIZE | {"concepts": "circle"} | values
        return self.add("ErasureEraseConcept", place, (340, height), title, values, links)

    def apply(self, place: Place, model: Output, edit: Output, title: str = "", strength: float = 1.0) -> Output:
        """`edit` on `model`."""
        links = {"model": model, "erased_unet": edit}
        return self.add("ErasureApplyErasedUNet", place, (300, 78), title, {"strength": strength}, links)[0]

    def save(self, place: Place, edit: Output, prefix: str) -> None:
        """A file for `edit`."""
        values = {"filename_prefix": prefix}
        self.add("ErasureSaveErasedUNet", place, (340, 140), "", values, {"erased_unet": edit})

    def report(self, place: Place, text: Output, title: str = "Report") -> None:
        """A box that shows `text`."""
        self.add("PreviewAny", place, (340, 300), title, None, {"source": text})

    def pictures(self, title: str, model: Output, positive: Output, place: Place, save: str = "") -> None:
        """A row: sampler, decoder and pictures, kept under the prefix `save` or only shown."""
        x, y = place
        links = {"model": model, "positive": positive, "negative": self.nothing, "latent_image": self.latent}
        (latent,) = self.add("KSampler", place, (280, 262), f"KSampler, {title}", SAMPLING, links)
        links = {"samples": latent, "vae": self.vae}
        (images,) = self.add("VAEDecode", (x + 320, y), (180, 46), links=links)
        kind, values = ("SaveImage", {"filename_prefix": save}) if save else ("PreviewImage", None)
        self.add(kind, (x + 540, y), PICTURES, title, values, {"images": images})

    def comparisons(self, models: dict[str, Output], prompts: list[Prompt], x: int, save: str = "") -> None:
        """A row of pictures for each prompt and each model (by its title); the models of one prompt stand below each other."""
        pairs = [(prompt, when) for prompt in prompts for when in models]
        for row, ((what, prompt), when) in enumerate(pairs):
            kept = f"{save}/{when}_{what.replace(' ', '_')}" if save else ""
            self.pictures(f"{when}: {what}", models[when], prompt, (x, row * ROW), kept)
