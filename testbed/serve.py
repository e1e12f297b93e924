"""`make serve`: ComfyUI with this pack and both small worlds, ready for the browser, until Ctrl-C.

python -m testbed.serve [--port N] [--gpu]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

from devtools.hosting import comfyui, install
from devtools.hosting.errors import in_one_line
from devtools.serving import server

from . import files


@in_one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C or a termination signal; 0, or 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="python -m testbed.serve", description="ComfyUI with this pack.")
    parser.add_argument("--port", type=int, help="default: one that is free")
    parser.add_argument("--gpu", action="store_true", help="use the accelerator that ComfyUI finds; default: the CPU")
    args = parser.parse_args(argv)
    parent = os.getppid()
    try:
        host = comfyui.ensure()
        models = files.all_models(host)
        print(f"starting ComfyUI from {host.path}", flush=True)
        base = install.cache() / "serve"
        with server.running_server(host, base, models_directory=models, port=args.port, cpu=not args.gpu) as running:
            print(f"\n  {running.url}\n", flush=True)
            print("The workflows are in the browser's Templates, under concept-erasure. Ctrl-C stops the server.")
            print(f"log: {running.log}", flush=True)
            print(_why_it_ends(running, parent), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped")
        return 0


def _why_it_ends(running: server.Server, parent: int) -> str:
    """Wait until there is nothing left to serve, or nobody to serve for."""
    while running.process.poll() is None:
        if _make_is_gone(parent):
            return "make was killed; stopping the server"
        time.sleep(0.5)
    return f"ComfyUI ended by itself; see {running.log}"


def _make_is_gone(parent: int) -> bool:
    """Whether a `make` that started us was killed, which tells us nothing; under a shell, serving on may be wanted."""
    return "MAKELEVEL" in os.environ and os.getppid() != parent


if __name__ == "__main__":
    raise SystemExit(main())
