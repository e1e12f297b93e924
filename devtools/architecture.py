"""Count what the import statements say about the layout, and the lines: `python -m devtools.architecture [FOLDER]`.

A room is a file or folder that is seen when one folder is opened, an arrow an import from one room to another, a floor a
level of the import order (a room stands one floor above the highest room that it imports). An arrow that points up in
`ORDER` is a fault.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = "concept_erasure"
"""The name under which tests, benchmarks and tools import the pack."""
ORDER = {
    "": [["erasure_core"], ["nodes"], ["devtools"], ["playground"], ["testbed"], ["benchmarks"]],
    "erasure_core": [
        ["contracts"],
        ["memory"],
        ["text"],
        ["training", "closed_form"],
        ["search", "hooks", "sae"],
        ["methods"],
        ["evaluation"],
        ["red_team"],
    ],
}
"""For each folder its rooms, lowest first; the files of `erasure_core` itself are the room "contracts"."""


def sources(root: Path = ROOT) -> list[Path]:
    """Every Python file outside the tests."""
    tops = [room for rank in ORDER[""] for room in rank]
    return [path for top in tops for path in sorted((root / top).rglob("*.py"))]


def module_name(path: Path, root: Path = ROOT) -> str:
    """The dotted name of a file, from the repository's root."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, modules: set[str], root: Path = ROOT) -> Iterator[str]:
    """The project's modules that a file imports, as it is loaded or later."""
    package = list(path.relative_to(root).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            dotted = [*base, *(node.module.split(".") if node.module else [])]
            start = ".".join(dotted[1:] if dotted[:1] == [PACKAGE] else dotted)
            for alias in node.names:
                name = f"{start}.{alias.name}" if start else alias.name
                if name in modules:
                    yield name
                elif start in modules:
                    yield start


def lines(root: Path = ROOT) -> int:
    """The lines of Python outside the tests, the pack's entry point among them."""
    files = [path for path in (root / "__init__.py", *sources(root)) if path.is_file()]
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)


def import_graph(root: Path = ROOT) -> dict[str, set[str]]:
    """Each module of the project with those that it imports."""
    names = {module_name(path, root): path for path in sources(root)}
    return {name: set(imported(path, set(names), root)) - {name} for name, path in names.items()}


def room_of(module: str, folder: str, folders: set[str]) -> str | None:
    """The room of a folder that a module lies in; None outside. The loose files of a folder in `ORDER` are one room."""
    if folder and not module.startswith(folder + "."):
        return None
    room = module[len(folder) + 1 if folder else 0 :].split(".")[0]
    return room if room in folders else "contracts"


def rooms_of(folder: str, graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Each file or folder seen in a folder with those beside it that it imports."""
    start = f"{folder}." if folder else ""
    inside = {module: module[len(start) :].split(".")[0] for module in graph if module.startswith(start)}
    rooms: dict[str, set[str]] = {room: set() for room in inside.values()}
    for module, room in inside.items():
        rooms[room] |= {inside[other] for other in graph[module] if other in inside} - {room}
    return rooms


def floors(rooms: dict[str, set[str]]) -> int:
    """How many levels the import order of some rooms has; raises graphlib.CycleError if it has no order."""
    height: dict[str, int] = {}
    for room in TopologicalSorter(rooms).static_order():
        height[room] = 1 + max((height[other] for other in rooms[room]), default=0)
    return max(height.values(), default=0)


def upward(folder: str, graph: dict[str, set[str]]) -> list[str]:
    """The imports inside a folder that go against `ORDER`, as "importing module -> imported module"."""
    ranks = {room: rank for rank, rooms in enumerate(ORDER[folder]) for room in rooms}
    found = []
    for module, others in graph.items():
        here = room_of(module, folder, set(ranks))
        for other in others:
            there = room_of(other, folder, set(ranks))
            if here and there and here != there and ranks[there] >= ranks[here]:
                found.append(f"{module} -> {other}")
    return sorted(found)


def report(folder: str, graph: dict[str, set[str]]) -> str:
    """One line with the figures of a folder."""
    rooms = rooms_of(folder, graph)
    arrows = sum(map(len, rooms.values()))
    try:
        height = f"{floors(rooms)} floors"
    except CycleError as error:
        height = f"a circle ({' <- '.join(error.args[1])})"
    line = f"{folder or 'the repository'}: {len(rooms)} rooms, {height}, {arrows} arrows"
    return f"{line}, {len(upward(folder, graph))} upward" if folder in ORDER else line


def main() -> None:
    """Print the figures of every folder with files of its own, or of the one that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", nargs="*", default=["", "erasure_core", "nodes", "devtools", "playground", "testbed", "benchmarks"]
    )
    graph = import_graph()
    print(f"{lines()} lines of Python outside the tests")
    for folder in parser.parse_args().folder:
        print(report(folder.replace("/", "."), graph))
        for arrow in upward(folder, graph) if folder in ORDER else []:
            print(f"  upward: {arrow}")


if __name__ == "__main__":
    main()
