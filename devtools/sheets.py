"""What the workflows of this pack have in common: one checkpoint, one size, rows of sampled pictures."""

from __future__ import annotations

from .graph import Graph, Output, Place

SAMPLING = {"seed": 7, "steps": 12, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
SIZE = {"width": 64, "height": 64}
PICTURES = (440, 240)  # eight small pictures in a row or two


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

    def text(self, title: str, prompt: str, place: Place) -> Output:
        """A prompt."""
        return self.add("CLIPTextEncode", place, (340, 110), title, {"text": prompt}, {"clip": self.clip})[0]

    def pictures(
        self, title: str, model: Output, positive: Output, negative: Output, place: Place, save: str = ""
    ) -> None:
        """A row: sampler, decoder and pictures, kept under the prefix `save` or only shown."""
        x, y = place
        links = {"model": model, "positive": positive, "negative": negative, "latent_image": self.latent}
        (latent,) = self.add("KSampler", place, (280, 262), f"KSampler, {title}", SAMPLING, links)
        links = {"samples": latent, "vae": self.vae}
        (images,) = self.add("VAEDecode", (x + 320, y), (180, 46), links=links)
        kind, values = ("SaveImage", {"filename_prefix": save}) if save else ("PreviewImage", None)
        self.add(kind, (x + 540, y), PICTURES, title, values, {"images": images})

    def comparisons(
        self,
        models: list[tuple[str, Output]],
        prompts: list[tuple[str, Output]],
        nothing: Output,
        x: int,
        save: str = "",
    ) -> None:
        """A row of pictures for each model and each prompt, the models of one prompt below each other."""
        for row, (what, prompt) in enumerate(prompts):
            for column, (when, model) in enumerate(models):
                kept = f"{save}/{when}_{what.replace(' ', '_')}" if save else ""
                place = (x, (len(models) * row + column) * 320)
                self.pictures(f"{when}: {what}", model, prompt, nothing, place, kept)
