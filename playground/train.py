"""`make playground`: train the judges, the autoencoder and the UNet from nothing and store what they learned; then the
playground in flow form, and the gold model, a UNet that never sees a circle.

Every stage keeps checkpoints in the cache folder, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from devtools.hosting.inprocess import load_comfy
from devtools.hosting.install import cache

from .drawing import SHAPES


def main() -> None:
    """Run all stages, or those named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=cache() / "playground-training")
    parser.add_argument("--fresh", action="store_true", help="forget the checkpoints of an earlier run")
    parser.add_argument("--only", choices=("flow", "gold"), help="only this one, on the shipped autoencoder")
    parser.add_argument("--without", choices=SHAPES, default="circle", help="the shape that the gold model never sees")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    load_comfy()
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.fresh:
        for checkpoint in arguments.folder.glob("*.pt"):
            checkpoint.unlink()

    from . import autoencoder, gold, judge, mmdit, text_encoder, unet, weights

    started = time.time()

    def report(what: str, where: Path) -> None:
        print(f"{what} in {where} after {(time.time() - started) / 60:.0f} minutes", flush=True)

    text_weights = text_encoder.text_encoder_weights(text_encoder.tokenizer_ids())
    if not arguments.only:
        trained_autoencoder = autoencoder.train_autoencoder(arguments.folder)
        judges = judge.train_judges(arguments.folder, trained_autoencoder)
        trained_unet = unet.train_unet(arguments.folder, trained_autoencoder, text_weights)
        weights.store(trained_unet, trained_autoencoder, judges)
        report("playground", weights.FOLDER)
    if arguments.only != "gold":
        weights.store_network("mmdit", mmdit.train_mmdit(arguments.folder, weights.stored_autoencoder(), text_weights))
        report("playground in flow form", weights.FOLDER)
    if arguments.only != "flow":
        report("gold model", gold.train_gold(arguments.folder, text_weights, arguments.without))


if __name__ == "__main__":
    main()
