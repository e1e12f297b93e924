"""`make picture-book`: train the autoencoder, the judges, and the UNet with its words, and store what they learned.

Every stage says how good it is and keeps checkpoints in the cache folder, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from devtools.hosting.errors import ToolError
from devtools.hosting.inprocess import load_comfy

from . import autoencoder, judge, sampling, sources, things, unet, weights
from .build import build_checkpoint
from .drawing import Book

if TYPE_CHECKING:
    from comfy.taesd.taesd import TAESD
    from transformers import ResNetForImageClassification

GOOD_ENOUGH = 0.95
"""Share of the autoencoder's reconstructions that a judge must name right before the UNet learns from it."""
LOOKED_AT, SCORED = 378, 2000
"""Pictures of the model that are judged after the words' stage, for a look, and at the end."""


@dataclass(frozen=True)
class Training:
    """One training: where its checkpoints lie, where its weights go, and what the stages need of one another.

    What a stage needs is trained to its end first; of a finished stage that only reads the checkpoint.
    """

    folder: Path
    target: Path
    book: Book

    @cached_property
    def encoder(self) -> TAESD:
        """The autoencoder whose latents the UNet learns from."""
        return autoencoder.train_autoencoder(self.folder, self.book)

    @cached_property
    def autoencoder(self) -> TAESD:
        """The same with a sharper decoder."""
        return autoencoder.train_decoder(self.folder, self.book, self.encoder)

    @cached_property
    def first_judges(self) -> dict[str, ResNetForImageClassification]:
        """The judges that have seen renderings only."""
        return {factor: judge.train_first_judge(self.folder, self.book, factor) for factor in judge.FACTORS}

    @cached_property
    def judges(self) -> dict[str, ResNetForImageClassification]:
        """The judges that know reconstructions as well."""
        return {
            factor: judge.train_judge(self.folder, self.book, factor, first, self.autoencoder)
            for factor, first in self.first_judges.items()
        }

    @cached_property
    def latents(self) -> unet.Latents:
        """What the UNet learns from."""
        return unet.Latents.of(self.book, self.encoder)

    @cached_property
    def drawer(self) -> unet.Drawer:
        """The UNet and its words after they have learned together."""
        return unet.train_with_words(self.folder, self.latents)

    def measured(self, judges: dict[str, ResNetForImageClassification]) -> dict[str, dict[str, judge.Accuracy]]:
        """By factor: how often its judge names fresh renderings right, and what the autoencoder makes of them."""
        rendering = self.book.random(judge.FRESH, torch.Generator().manual_seed(2024))
        again = autoencoder.reconstructed(self.autoencoder, rendering.pictures)
        found = {}
        for factor, module in judges.items():
            right = judge.truth(rendering, factor)
            found[factor] = {
                "fresh renderings": judge.accuracy(module, rendering.pictures, right),
                "reconstructions": judge.accuracy(module, again, right),
            }
            print(f"judge of {factor}: {found[factor]}", flush=True)
        return found

    def scored(self, n: int, sheet: str) -> dict[str, judge.Accuracy]:
        """How many of n pictures of the stored weights are what was asked for; 126 of them go into a picture `sheet`."""
        from torchvision.utils import save_image

        checkpoint = self.folder / "book.safetensors"
        build_checkpoint(checkpoint, self.target)
        names = [thing.name for thing in self.book.things]
        found, pictures = sampling.judged(checkpoint, weights.stored_judges(self.target), names, n)
        save_image(pictures[:126], self.folder / sheet, nrow=14, padding=1)
        print(f"the model's own pictures: {found}; some are in {self.folder / sheet}", flush=True)
        return found


def train_autoencoder(training: Training) -> None:
    """The autoencoder; raises ToolError if judges that do not know its faults cannot tell its pictures."""
    found = training.measured(training.first_judges)["thing"]["reconstructions"]
    if found.top1 < GOOD_ENOUGH:
        raise ToolError(
            f"only {found.top1:.1%} of the reconstructions are judged right, and the UNet needs {GOOD_ENOUGH:.0%}: raise the "
            f"steps in picture_book/autoencoder.py and run this again"
        )
    weights.store_things(training.book.things, training.target)
    weights.store_network("autoencoder", training.autoencoder, training.target)


def train_judges(training: Training) -> None:
    """The judges that are shipped, with their accuracy beside them."""
    for factor, module in training.judges.items():
        weights.store_judge(factor, module, training.target)
    weights.store_accuracy(training.measured(training.judges), training.target)


def train_words(training: Training) -> None:
    """UNet and words together."""
    words = training.drawer.words
    weights.store_words(words.tokens, words.rows(), training.target)
    weights.store_network("unet", training.drawer.unet, training.target)
    training.scored(LOOKED_AT, "words.png")


def train_unet(training: Training) -> None:
    """The UNet on fixed words."""
    weights.store_network("unet", unet.train_alone(training.folder, training.latents, training.drawer), training.target)
    training.scored(SCORED, "unet.png")


STAGES = {"autoencoder": train_autoencoder, "judges": train_judges, "words": train_words, "unet": train_unet}


def main() -> None:
    """Run all stages, or the one that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", choices=STAGES, help="only this one (and what it needs of those before it)")
    parser.add_argument("--things", choices=("some", "all"), default="some", help="all: every usable one, for a GPU")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    load_comfy()
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    whole = arguments.things == "all"
    folder = sources.folder() / ("training-all" if whole else "training")
    folder.mkdir(parents=True, exist_ok=True)
    book = Book(*things.load(sources.fetch(), None if whole else things.MOST))
    print(f"{len(book.things)} things, {len(sources.STYLES)} styles; checkpoints in {folder}", flush=True)
    # what is trained on all things is too large for the repository
    training = Training(folder, folder / "weights" if whole else weights.FOLDER, book)
    for name in [arguments.stage] if arguments.stage else STAGES:
        began = time.time()
        STAGES[name](training)
        print(f"{name}: done after {(time.time() - began) / 60:.0f} minutes", flush=True)


if __name__ == "__main__":
    main()
