"""Build the files that a release carries for those who have no clone: of each small world the checkpoint, an edit, the judge.

    python -m testbed.release_assets [--record] [--tag TAG]

They go to `dist/`, the same bytes each time, and are attached to the release TAG as they are; `--record` keeps their hashes
in `release_assets.json`, from which the workflows take them. Without it a file that differs from what is recorded is an error.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from devtools.hosting import comfyui
from devtools.hosting.errors import ToolError, in_one_line
from devtools.workflows.published import ASSETS

from . import files

OUT = comfyui.PACK / "dist"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip can name
FILES = {
    "playground.safetensors": ("checkpoints", files.CHECKPOINT),
    "playground_erased_circle.safetensors": ("loras", files.EDIT),
    "playground": ("concept_judges", files.JUDGE),
    "picture_book.safetensors": ("checkpoints", files.BOOK),
    "picture_book_erased_cat.safetensors": ("loras", files.BOOK_EDIT),
    "picture_book": ("concept_judges", files.BOOK_JUDGE),
}
"""By the name under which a loader lists it: its folder below models/, and where the build puts it."""


class AssetError(ToolError):
    """A built file is not the one that the workflows name."""


def sha256(path: Path) -> str:
    """The hash of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def zipped(folder: Path, path: Path) -> None:
    """A folder as one zip, the same bytes for the same contents: sorted, stored, without dates or owners."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            entry = zipfile.ZipInfo(f"{folder.name}/{file.relative_to(folder).as_posix()}", EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, file.read_bytes())


def build(models: Path, out: Path) -> dict[str, dict]:
    """Put the files into `out`; what is to be recorded of each, by the name under which a loader lists it."""
    out.mkdir(parents=True, exist_ok=True)
    built = {}
    for name, (directory, source) in FILES.items():
        folder = (models / source).is_dir()
        file = f"{name}_judge.zip" if folder else name
        if folder:
            zipped(models / source, out / file)
        else:
            shutil.copyfile(models / source, out / file)
        size = (out / file).stat().st_size
        built[name] = {"directory": directory, "file": file, "hash": sha256(out / file), "bytes": size}
    return built


def recorded() -> dict:
    """The contents of `release_assets.json`: `tag`, and `files` by name."""
    return json.loads(ASSETS.read_text(encoding="utf-8")) if ASSETS.is_file() else {"tag": "playground-1", "files": {}}


def check(built: dict[str, dict]) -> None:
    """Raise AssetError for files that are not those that the workflows name."""
    known = recorded()["files"]
    wrong = [name for name, asset in built.items() if known.get(name) != asset]
    if wrong:
        raise AssetError(
            f"{', '.join(wrong)}: not what {ASSETS.name} records. If a world was meant to change, give a new --tag "
            "with --record, then run devtools.make_workflows; otherwise build on the machine that recorded it."
        )


@in_one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Build, and check or record; 0, or 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(
        prog="python -m testbed.release_assets", description="Build what a release carries."
    )
    parser.add_argument("--record", action="store_true", help="keep the new hashes")
    parser.add_argument(
        "--tag", default=recorded()["tag"], help="the release that will carry them; default: %(default)s"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="default: %(default)s")
    args = parser.parse_args(argv)
    built = build(files.all_models(comfyui.ensure()), args.out)
    if args.record:
        text = json.dumps({"tag": args.tag, "files": built}, indent=2)
        ASSETS.write_text(text + "\n", encoding="utf-8")
    check(built)
    for asset in built.values():
        print(f"{asset['hash']}  {args.out / asset['file']}")
    print(f"attach them to the release {args.tag}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
