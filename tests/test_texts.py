"""Texts that quote the code are right: error sentences, methods, settings, files and commands."""

from __future__ import annotations

import ast
import asyncio
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools.hosting.inprocess import load_comfy

ROOT = Path(__file__).parent.parent
CODE = sorted(path for folder in ("erasure_core", "nodes") for path in (ROOT / folder).rglob("*.py"))
HELP = sorted((ROOT / "web" / "docs").glob("*/en.md"))
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "findings").glob("*.md"), *HELP])
TOPS = ("erasure_core", "nodes", "devtools", "playground", "testbed", "benchmarks", "tests")
GAP = "..."
# a list of what a setting is not for is complete: test_trained.py compares it with the code
NOT_A_CHOICE = ("for example", "such as", "Not available for", "例如")


@functools.cache
def templates() -> list[tuple[str, ...]]:
    """The words of every string of the pack; an f-string's values are gaps."""
    found = []
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else f" {GAP} " for part in node.values]
                found.append(words("".join(parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(words(node.value))
    return found


def words(text: str) -> tuple[str, ...]:
    """Words, arrows and gaps."""
    return tuple(re.findall(r"\.\.\.|=>|\w+", text))


def says(template: tuple[str, ...], quote: tuple[str, ...]) -> bool:
    """Whether the template can read like the quote somewhere; half of the words must be its own, not what a gap takes."""

    @functools.cache
    def most(i: int, j: int) -> float:
        if i == len(quote):
            return 0
        if j == len(template):
            return most(i + 1, j) if quote[i] == GAP else -1000
        ways = [-1000.0]
        if quote[i] == GAP:
            ways += [most(i + 1, j), most(i, j + 1)]
        if template[j] == GAP:
            ways += [most(i, j + 1), most(i + 1, j)]
        if quote[i] == template[j]:
            ways.append(1 + most(i + 1, j + 1))
        return max(ways)

    least = sum(word != GAP for word in quote) / 2
    if sum(word != GAP and word in template for word in quote) < least:
        return False
    return max((most(0, j) for j in range(len(template))), default=0) >= least


def is_of_the_code(quote: str) -> bool:
    """Whether each part of a message, between colons, is a template's."""
    parts = [words(part) for part in quote.split(": ")]
    return all(any(says(template, part) for template in templates()) for part in parts if set(part) - {GAP})


def quotes(page: Path) -> Iterator[str]:
    """The messages under Troubleshooting: what stands in backticks before the colon of an entry."""
    text = page.read_text(encoding="utf-8")
    for entry in re.findall(r"^- (.*)$", text.partition("## Troubleshooting")[2], re.MULTILINE):
        if "(from ComfyUI)" not in entry:
            head = re.match(r"(?:[^`:]|`[^`]*`)*:", entry)
            yield from re.findall(r"`([^`]+)`", head[0] if head else "")


@pytest.mark.parametrize("page", HELP, ids=lambda page: page.parent.name)
def test_every_message_that_a_help_page_explains_is_one_of_the_code(page: Path) -> None:
    assert [quote for quote in quotes(page) if not is_of_the_code(quote)] == []


def test_the_errors_of_the_file_format_are_those_of_the_code() -> None:
    quoted = re.findall(r"error: `([^`]+)`", (ROOT / "docs" / "file-format.md").read_text(encoding="utf-8"))
    assert len(quoted) >= 5 and [quote for quote in quoted if not is_of_the_code(quote)] == []


def test_a_message_that_the_code_no_longer_has_is_noticed() -> None:
    assert is_of_the_code("no latent fires ... times as much for the target as for other words")
    assert not is_of_the_code("no latent fires more for the target than for other words")
    assert not is_of_the_code("the picture is too large for this model")


@functools.cache
def schemas() -> tuple:
    """The schemas of all nodes."""
    load_comfy()
    from concept_erasure.nodes.extension import ConceptErasure

    async def nodes() -> list:
        extension = ConceptErasure()
        await extension.on_load()
        return await extension.get_node_list()

    return tuple(node.define_schema() for node in asyncio.run(nodes()))


@functools.cache
def names(everywhere: bool = False) -> frozenset[str]:
    """Every word of the pack's code, or of all code: what letters with an underscore may mean."""
    paths = CODE if not everywhere else [path for top in TOPS for path in (ROOT / top).rglob("*.py")]
    texts = (path.read_text(encoding="utf-8") for path in paths if path != Path(__file__))
    vocabularies = (path.stem for path in (ROOT / "erasure_core").rglob("*.txt"))
    return frozenset(vocabularies) | {word for text in texts for word in re.findall(r"\w+", text)}


def tooltips() -> Iterator[tuple[str, str]]:
    """(where, text) of every tooltip: the nodes' own and their settings', and those of each language."""
    for schema in schemas():
        for entry in (*schema.inputs, *schema.outputs):
            inner = [one for option in getattr(entry, "options", None) or () for one in getattr(option, "inputs", ())]
            yield from ((f"{schema.node_id}.{one.id}", one.tooltip or "") for one in (entry, *inner))
    for path in (ROOT / "locales").glob("*/nodeDefs.json"):
        for node, texts in json.loads(path.read_text(encoding="utf-8")).items():
            for key, entry in (texts["inputs"] | texts["outputs"]).items():
                yield f"{path.parent.name} {node}.{key}", entry.get("tooltip", "")


def listed(text: str, names: set[str]) -> set[str]:
    """The names that stand in a list of two or more: between commas or "and"."""
    name = "|".join(sorted(names, key=len, reverse=True))
    lists = re.findall(rf"\b(?:(?:{name})(?:, | and |, and | or |, or |、|，|和)+)+(?:{name})\b", text)
    return {one for found in lists for one in re.findall(r"\w+", found) if one in names}


def test_a_tooltip_that_lists_methods_or_attacks_lists_all_or_says_that_it_does_not() -> None:
    from concept_erasure.erasure_core.method import methods
    from concept_erasure.erasure_core.red_team.attack import attacks

    for known in (set(methods()), set(attacks())):
        for where, text in tooltips():
            assert listed(text, known) in (set(), known) or any(word in text for word in NOT_A_CHOICE), where
    assert listed("Choose ap, esd or uce", set(methods())) == {"ap", "esd", "uce"}


def test_every_name_in_a_tooltip_exists() -> None:
    wrong = {(where, name) for where, text in tooltips() for name in underscored(text) if name not in names()}
    assert wrong == set()


def underscored(text: str) -> list[str]:
    """The words of a text that only code writes so."""
    return re.findall(r"(?<![\w./-])[a-z]+(?:_[a-z0-9]+)+(?![\w/-]|\.\w)", text)


def in_code(page: Path) -> list[str]:
    """What stands in backticks on a page, outside of blocks."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_name_file_and_command_in_a_page_exists(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        pytest.skip("names what was there then")
    known = names(everywhere=page not in HELP and page.parent.name != "methods")
    for quoted in in_code(page):
        assert [name for name in underscored(quoted) if name not in known] == [], quoted
        for module in re.findall(rf"(?:^|[ `])-m ((?:{'|'.join(TOPS)})[\w.]*)", quoted):
            assert there(module.replace(".", "/")), quoted
        for path in re.findall(rf"^(?:{'|'.join(TOPS)}|docs|web|locales)/[\w./-]*", quoted):
            assert there(path), quoted


def there(path: str) -> bool:
    """Whether the repository has the file or folder, or the module."""
    return (ROOT / path).exists() or (ROOT / f"{path}.py").is_file()


def test_a_file_that_moved_is_noticed() -> None:
    assert there("erasure_core/text/synonyms.py") and there("testbed/demo") and "negative_guidance" in names()
    assert not there("erasure_core/contexts.py") and not there("devtools/demo") and "push_strength" not in names()
