"""Write the imports by which the registries of methods and attacks fill themselves.

python -m devtools.registries            rewrite erasure_core/methods/__init__.py and its twin for the attacks
python -m devtools.registries --check    write nothing; exit 1 if a file in the folder is not imported

The lists are written out because the ComfyUI Registry flags packs that import modules by a computed name. Standard
library only, so that a folder with a broken method can still be listed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .hosting.comfyui import PACK

BY = "python -m devtools.registries"
FOLDERS = {
    PACK / "erasure_core" / "methods": "One erasure method a file; `method.methods()` finds them all.",
    PACK / "erasure_core" / "red_team" / "attacks": "One attack a file; `attack.attacks()` finds them all.",
}


def text(folder: Path, about: str) -> str:
    """The `__init__.py` that imports every module of `folder`."""
    names = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
    listed = "".join(f"    {name},\n" for name in names)
    exported = "".join(f'    "{name}",\n' for name in names)
    return (
        f'"""{about}\n\nImporting a module registers what it defines. The list is written by `{BY}`.\n"""\n\n'
        f"from . import (\n{listed})\n\n__all__ = [\n{exported}]\n"
    )


def stale() -> list[Path]:
    """The lists that name other modules than their folders hold."""
    return [
        folder / "__init__.py"
        for folder, about in FOLDERS.items()
        if (folder / "__init__.py").read_text(encoding="utf-8") != text(folder, about)
    ]


def main(argv: list[str] | None = None) -> int:
    """Rewrite the lists, or check them; 0, or 1 if `--check` finds one stale."""
    parser = argparse.ArgumentParser(prog=BY, description="The imports of the registries.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a list is stale")
    args = parser.parse_args(argv)
    found = stale()
    for path in found:
        if args.check:
            print(f"{path} is stale; run: {BY}", file=sys.stderr)
        else:
            path.write_text(text(path.parent, FOLDERS[path.parent]), encoding="utf-8")
            print(path)
    return int(args.check and bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
