"""What is written about the nodes agrees with the nodes."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
from erasure_tests.toy import ToyDenoiser

from devtools import family_docs, method_docs, pages, registries
from devtools.hosting.errors import ToolError
from devtools.hosting.inprocess import load_comfy
from devtools.hosting.pack import load_pack

ROOT = Path(__file__).parent.parent
COMPLETE = ("zh",)
"""Locales with tooltips and settings; the others have the names of nodes, inputs and outputs."""
LOCALES = sorted(path.name for path in (ROOT / "locales").iterdir())


@pytest.fixture(scope="module")
def schemas() -> dict:
    """Node id -> schema, read in this process."""
    load_comfy()
    from concept_erasure.nodes.extension import ConceptErasure

    async def nodes() -> list:
        extension = ConceptErasure()
        await extension.on_load()
        return await extension.get_node_list()

    found = [node.define_schema() for node in asyncio.run(nodes())]
    return {schema.node_id: schema for schema in found}


def test_the_registries_import_every_file_of_their_folders() -> None:
    assert registries.stale() == [], "run: python -m devtools.registries"


def test_the_pages_about_methods_are_current() -> None:
    assert method_docs.stale() == [], "run: python -m devtools.method_docs"


def test_a_method_that_falls_short_on_the_playground_says_why_and_what_to_use_instead() -> None:
    """Short is any run with ESR-1 under 90 or PSR-1 more than 15 points under the base model's; the others do not say it."""
    load_pack()
    from concept_erasure.erasure_core.method import methods

    base = {(run["target"], run["seed"]): run["psr1"] for run in method_docs.compared(method_docs.BASE)}
    said = "**Limits and alternatives.**"
    for name in methods().keys() - set(method_docs.NOT_COMPARED):
        runs = method_docs.compared(name)
        assert {(run["target"], run["seed"]) for run in runs} == set(base), f"{name} was not compared with the others"
        short = any(run["esr1"] < 90 or run["psr1"] < base[run["target"], run["seed"]] - 15 for run in runs)
        page = (method_docs.FOLDER / f"{name}.md").read_text(encoding="utf-8")
        assert page.count(said) == short, name
        if short:
            why = page.split(said)[1].split("\n## ")[0]
            others = set(re.findall(r"\]\((\w+)\.md\)", why))
            assert "[`ap`](ap.md)" in why and others <= set(methods()) - {name}, name


def test_a_method_that_takes_too_long_to_be_compared_says_where_it_was_measured() -> None:
    for name in method_docs.NOT_COMPARED:
        page = (method_docs.FOLDER / f"{name}.md").read_text(encoding="utf-8")
        measured = page.split("## Measured")[1].split("\n## ")[0]
        assert "](../performance.md#" in measured and not method_docs.compared(name), name


def test_the_figures_on_a_methods_page_are_those_of_the_comparison() -> None:
    runs = [
        {"target": "red", "seed": seed, "esr1": esr1, "psr1": 66.67, "look_alike": None, "synonym_esr1": 50.0}
        | {"rest": {"shape": 99.5 - seed}, "n": {"target": 60}}
        for seed, esr1 in ((1, 12.5), (0, 100.0))
    ]
    table = method_docs.measured_table(runs, [{"esr1": 0.0, "psr1": 97.0}, {"esr1": 2.0, "psr1": 99.0}])
    assert "n = 60 a run" in table and "seeds 0, 1" in table and "ESR-1 1 and PSR-1 98 on average" in table
    assert table.endswith("| red | 100, 12 | 67, 67 | -, - | shape 100, 98 | 50, 50 |")


def test_the_table_of_families_is_current() -> None:
    assert family_docs.main(["--check"]) == 0, "run: python -m devtools.family_docs"


def test_a_stale_page_is_noticed_and_mended(tmp_path: Path, monkeypatch) -> None:
    page = tmp_path / "en.md"
    begin, end = pages.BEGIN.format("methods", method_docs.BY), pages.END.format("methods")
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(method_docs, "PAGE", page)
    assert method_docs.main(["--check"]) == 1
    assert method_docs.main([]) == 0
    assert method_docs.main(["--check"]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "[`esd`]" in text


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="needs the lines"):
        pages.filled("no markers here", "settings", method_docs.BY, "", tmp_path)


def test_every_node_has_a_help_page_that_names_its_inputs_and_outputs(schemas: dict) -> None:
    pages = {path.parent.name: path.read_text(encoding="utf-8") for path in ROOT.glob("web/docs/*/en.md")}
    assert set(pages) == set(schemas)
    for node, schema in schemas.items():
        named = set(re.findall(r"`([^`\n]+)`", pages[node]))
        wanted = {entry.id for entry in schema.inputs} | {output.display_name for output in schema.outputs}
        assert wanted <= named, f"{node}: the page does not name {sorted(wanted - named)}"
        assert pages[node].startswith(f"# {schema.display_name}\n")


def nested(schema) -> list[str]:
    """The settings inside a dynamic combo, spelled as the browser asks for their translation: each once."""
    found = {
        f"{entry.id}_{inner.id}": None
        for entry in schema.inputs
        for option in getattr(entry, "options", None) or ()
        for inner in getattr(option, "inputs", ())
    }
    return list(found)


@pytest.mark.parametrize("language", LOCALES)
def test_a_locale_names_exactly_what_the_nodes_have(language: str, schemas: dict) -> None:
    folder = ROOT / "locales" / language
    texts = json.loads((folder / "nodeDefs.json").read_text(encoding="utf-8"))
    assert set(texts) == set(schemas)
    for node, schema in schemas.items():
        inputs, settings = {entry.id for entry in schema.inputs}, set(nested(schema))
        named = set(texts[node]["inputs"])
        assert inputs <= named <= inputs | settings, f"{node}: {sorted(named ^ inputs)}"
        assert named >= settings or language not in COMPLETE, f"{node}: {sorted(settings - named)}"
        assert list(texts[node]["outputs"]) == [str(i) for i in range(len(schema.outputs))], node
        entries = [texts[node]["inputs"][name] for name in inputs] + list(texts[node]["outputs"].values())
        wanted = {"name", "tooltip"} if language in COMPLETE else {"name"}
        for entry in (texts[node] | {"name": texts[node]["display_name"]}, *entries):
            assert wanted - {"tooltip"} <= set(entry) and all(str(entry[key]).strip() for key in entry)
        if language in COMPLETE:
            assert texts[node]["description"].strip()
            assert all(set(entry) == wanted for entry in entries), node
    categories = json.loads((folder / "main.json").read_text(encoding="utf-8"))["nodeCategories"]
    own = {part for schema in schemas.values() for part in schema.category.split("/")} - {"model"}
    assert set(categories) == own, "the host translates its own categories, we ours"


@pytest.mark.parametrize("language", LOCALES)
def test_a_translation_names_no_method_that_is_not_there_and_no_old_list_of_them(language: str) -> None:
    load_pack()
    from concept_erasure.erasure_core.method import methods

    texts = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    tooltip = texts["ErasureEraseConcept"]["inputs"]["method"].get("tooltip", "")
    named = set(re.findall(r"[a-z_]{3,}", tooltip)) & set(methods())
    assert named in (set(), set(methods())), "name all methods or none"


def test_the_readme_is_short_and_names_every_node_and_method(schemas: dict) -> None:
    from concept_erasure.erasure_core.method import methods

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 150
    for schema in schemas.values():
        assert f"**{schema.display_name}**" in readme
    for name in methods():
        assert f"[`{name}`](docs/methods/{name}.md)" in readme


def test_the_page_of_workflows_names_each() -> None:
    page = (ROOT / "docs" / "workflows.md").read_text(encoding="utf-8")
    for workflow in (ROOT / "workflows").glob("*.json"):
        assert f"| `{workflow.stem}` |" in page


def test_the_documented_method_works_as_it_stands(tmp_path: Path, monkeypatch) -> None:
    from concept_erasure.erasure_core import method
    from concept_erasure.erasure_core.concepts import parse_request
    from concept_erasure.erasure_core.report import Report

    # a copy, so that no other test meets it; and somebody may have kept the example as a method
    others = {name: found for name, found in method.methods().items() if name != "ablation"}
    monkeypatch.setattr(method, "_REGISTRY", others)
    page = (ROOT / "docs" / "adding_a_method.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^\+(?!\+\+ )(.*)$", page, re.MULTILINE))
    file = tmp_path / "readme.py"
    file.write_text(code, encoding="utf-8")
    name = "concept_erasure.erasure_core.methods.readme"
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    added = method.methods()["ablation"]
    settings = {"steps": 4, "sampling_steps": 4, "trajectories": 2, "batch": 2}
    report = Report()
    erased = added(**settings).erase(ToyDenoiser(), parse_request("circle => square", "ring"), report)
    assert not erased.is_zero() and erased.provenance.method == "ablation"
    assert set(report.losses) == {"erase", "retain"}


HELP_PAGES = sorted((ROOT / "web" / "docs").rglob("*.md"))
ONLINE = "https://github.com/concept-erasure/ComfyUI-Concept-Erasure"


@pytest.mark.parametrize("page", HELP_PAGES, ids=lambda page: str(page.relative_to(ROOT / "web" / "docs")))
def test_a_help_page_fits_the_panel_and_leads_to_what_is_there(page: Path) -> None:
    """The panel is 300 pixels wide, opens every link in a new tab, and takes pictures from the folder of all pages."""
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"^\|", text, re.MULTILINE), "a table does not fit: write a list"
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert not [target for target in targets if target.startswith("#")], "a link inside the page opens it anew"
    pictures = re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", text)
    assert pictures, "a help page shows its node: run devtools.help_pictures"
    for target in set(targets) - set(pictures):
        assert target.startswith(("https://", "http://")), target
        if target.startswith(f"{ONLINE}/blob/main/"):
            assert leads_somewhere(ROOT, target.removeprefix(f"{ONLINE}/blob/main/")), target
    for picture in pictures:
        assert (ROOT / "web" / "docs" / picture).is_file(), picture


def anchors(markdown: str) -> set[str]:
    """What a page's headings are linked by on GitHub."""
    headings = re.findall(r"^#+ (.+)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def leads_somewhere(folder: Path, link: str) -> bool:
    """Whether there is what a relative link in a page of `folder` names: a file or folder, and in it the heading."""
    path, _, heading = link.partition("#")
    place = folder / path
    return place.exists() and (not heading or heading in anchors(place.read_text(encoding="utf-8")))


PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "findings").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)):
        if not link.startswith(("https://", "http://")):
            assert leads_somewhere(page.parent, link if link[0] != "#" else page.name + link), link


def test_a_link_to_nowhere_is_noticed() -> None:
    assert leads_somewhere(ROOT, "README.md#limits")
    assert not leads_somewhere(ROOT, "README.md#no-such-heading") and not leads_somewhere(ROOT, "docs/no_such_page.md")


def test_a_page_of_any_language_finds_its_help() -> None:
    """The browser asks for `<Node>/<language>.md`, then for `<Node>.md`, and then gives up."""
    for page in (ROOT / "web" / "docs").glob("*/en.md"):
        assert page.parent.with_suffix(".md").read_text(encoding="utf-8") == page.read_text(encoding="utf-8")
