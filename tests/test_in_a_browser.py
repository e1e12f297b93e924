"""What an artist sees: every template and the runs that matter, on the real page in a headless Chromium.

Screenshots go to the folder that `$CONCEPT_ERASURE_SHOTS` names, else to a temporary one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from erasure_tests.server import QUICK

from devtools import make_workflows
from devtools.serving import browser
from devtools.workflows import graph
from devtools.workflows.api_prompt import api_prompt
from devtools.workflows.first_steps import THREE
from devtools.workflows.graph import each
from devtools.workflows.published import asset_url
from devtools.workflows.sheet import SMALL

SCRIPTS = Path(__file__).parent / "browser"
NAMES = tuple(make.__name__ for make in make_workflows.MAKERS)
SHORT = QUICK | {"method.steps": 4, "method.trajectories": 1, "method.candidates": 4}
"""A run of seconds: what it erases is not looked at."""

pytestmark = pytest.mark.skipif(browser.missing() is not None, reason=f"no browser: {browser.missing()}")


@pytest.fixture(scope="session")
def shots(tmp_path_factory) -> str:
    """Where the screenshots go; skips the test where the driver cannot be installed."""
    try:
        browser.driver()
    except browser.BrowserError as error:
        pytest.skip(str(error))
    return os.environ.get("CONCEPT_ERASURE_SHOTS") or str(tmp_path_factory.mktemp("screenshots"))


def act(bench, shots: str, what: str, name: str = "erase_and_compare", **given: object) -> dict:
    """What `runs.mjs` saw of one act on a workflow."""
    given = {"workflow": make_workflows.workflow(name), "name": name, "quick": SHORT} | given
    return browser.run(SCRIPTS / "runs.mjs", {"url": bench.running.url, "shots": shots, "act": what} | given)


@pytest.fixture(scope="module")
def opened(shots, bench) -> dict[str, dict]:
    """What the page shows of every template, and would post for it; the files that one of them loads are there."""
    bench.workflow("hide_behind_a_key")
    workflows = {name: make_workflows.workflow(name) for name in NAMES}
    workflows |= {path.stem: json.loads(path.read_text("utf-8")) for path in make_workflows.BLUEPRINTS.glob("*.json")}
    return browser.run(SCRIPTS / "templates.mjs", {"url": bench.running.url, "shots": shots, "workflows": workflows})


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_template_opens_whole(opened, name):
    seen = opened[name]
    assert seen["overlapping"] == [] and not seen["groupsOverlap"] and seen["outside"] == []
    assert seen["errors"] == [] and seen["toasts"] == []
    red = [node for node in each(make_workflows.workflow(name)) if node.get("title", node["type"]) and _asks(node)]
    expected = sorted(node["type"] for node in red) if name in make_workflows.REAL else []
    assert sorted(seen["missing"]) == expected, (
        "only the user's own files may be missing, and each says where it comes from"
    )


def _asks(node: dict) -> bool:
    """Whether a loader names files with an address."""
    return bool(node["properties"].get("models")) and all(one["url"] for one in node["properties"]["models"])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_template_is_laid_out_as_the_page_draws_it(opened, name):
    """Otherwise nodes grow when it is opened, into those below."""
    saved = {str(node["id"]): node["size"] for node in each(make_workflows.workflow(name))}
    for node in opened[name]["sizes"]:
        assert node["size"] == pytest.approx(saved[node["id"]], abs=1), f"{node['title']}: run devtools.node_sizes"
        assert node["kind"] in ("MarkdownNote",) or node["least"][1] <= node["size"][1] + 1


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_note_can_be_read_when_a_template_opens(opened, name):
    note = opened[name]["note"]
    assert note["scrolls"] == 0, "all of it is seen"
    assert note["letter"] * opened[name]["scale"] >= 11.5, "pixels"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_page_posts_what_our_own_tools_post(opened, bench, name):
    ours = api_prompt(make_workflows.workflow(name), bench.info)
    theirs = opened[name]["prompt"]
    assert {node: entry["inputs"] for node, entry in ours.items()} == {
        node: entry["inputs"] for node, entry in theirs.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", make_workflows.BLUEPRINT_TITLES.values())
def test_a_blueprint_opens_whole(opened, bench, name):
    seen = opened[name]
    assert seen["missing"] == [] and seen["overlapping"] == [] and seen["errors"] == []
    blueprint = json.loads((make_workflows.BLUEPRINTS / f"{name}.json").read_text("utf-8"))
    ours = {node: entry["inputs"] for node, entry in api_prompt(blueprint, bench.info).items()}
    assert ours == {node: entry["inputs"] for node, entry in seen["prompt"].items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", make_workflows.BLUEPRINT_TITLES.values())
def test_a_blueprint_is_in_the_node_library_and_can_be_placed(bench, shots, name):
    assert act(bench, shots, "blueprint", title=name)["placed"] == [name]


@pytest.mark.parametrize("name", ["erase_and_compare", "closed_form_in_seconds"])
def test_a_workflow_runs_on_the_page(bench, shots, name):
    """Progress moves, the preview changes, the report ends the run, the pictures are there."""
    seen = act(bench, shots, "run", name)
    assert seen["ended"] == "execution_success", seen["said"]
    moved = [value for values in seen["progress"].values() for value in values]
    assert len(set(moved)) > 3 and max(moved) == 1
    reports = [one["text"] for title, one in seen["shown"].items() if title.startswith("Report")]
    of_ap = name == "erase_and_compare"
    assert reports and all(("cat" if of_ap else "circle") in text for text in reports)
    pictures = {title: one["pictures"] for title, one in seen["shown"].items() if ": a " in title}
    assert pictures and set(pictures.values()) == {THREE.pictures if of_ap else SMALL.pictures}
    if of_ap:  # a closed form draws nothing while it erases
        assert seen["progress"][seen["erase"]] == sorted(seen["progress"][seen["erase"]])
        assert len({picture for node, picture in seen["previews"] if node == seen["erase"]}) > 1
    assert seen["errors"] == [] and seen["overlapping"] == []


@pytest.mark.slow
def test_a_missing_file_is_named_and_the_note_has_its_link(bench, shots):
    """The page downloads from a few hosts only; for others it copies the address, so the note has a link as well."""
    text = json.dumps(make_workflows.workflow("evaluate")).replace("picture_book.safetensors", "absent.safetensors")
    seen = act(bench, shots, "missing", workflow=json.loads(text))
    assert "absent.safetensors" in seen["said"] and "Missing Models" in seen["said"]
    addresses = [asset_url(name) for name in ("picture_book_erased_cat.safetensors", "picture_book")]
    assert set(addresses) <= set(seen["links"])


@pytest.mark.slow
def test_every_method_can_be_chosen_and_posts_its_own_settings(bench, shots):
    (options,) = (
        more[0]["options"]
        for kind, *more in bench.info["ErasureEraseConcept"]["input"]["required"].values()
        if kind == "COMFY_DYNAMICCOMBO_V3"
    )
    posted = act(bench, shots, "methods", methods=[option["key"] for option in options])
    for option in options:
        settings = {name for group in option["inputs"].values() for name in group}
        given = {name for name in posted[option["key"]]["inputs"] if name.startswith("method.")}
        assert given == {f"method.{name}" for name in settings}
        height, least = posted[option["key"]]["size"]
        assert height >= least


@pytest.mark.slow
def test_a_saved_workflow_is_the_same_when_it_is_opened_again(bench, shots):
    seen = act(bench, shots, "save")
    assert seen["before"] == seen["after"]
    methods = [
        one["inputs"].get("method") for one in seen["after"].values() if one["class_type"] == "ErasureEraseConcept"
    ]
    assert methods == ["esd"]


@pytest.mark.slow
def test_a_run_is_cancelled_by_the_button_and_the_next_one_ends(bench, shots):
    seen = act(bench, shots, "cancel", slow=SHORT | {"method.steps": 5000})
    assert seen["cancelled"] == "execution_interrupted"
    assert seen["again"] == "execution_success", seen["said"]


@pytest.mark.slow
def test_from_the_dialog_to_a_running_erasure_in_three_choices(bench, shots):
    """The playground stands in for a checkpoint of Stable Diffusion 1.5."""
    title = make_workflows.path_of("sd15").stem
    seen = act(bench, shots, "template", title=title, checkpoint="playground.safetensors")
    assert seen["choices"] == [title, "playground.safetensors", "Run"]
    assert seen["ended"] == "" and seen["erase"] in seen["started"]
    assert seen["scale"] == graph.SCALE, "not so small that the note cannot be read"


@pytest.mark.slow
def test_erase_concept_fits_one_screen_in_both_renderers(bench, shots) -> None:
    """At most eight widgets, the rest behind one choice; presets are seen; what was saved before loads as it was."""
    seen = browser.run(SCRIPTS / "one_screen.mjs", {"url": bench.running.url, "shots": shots})
    assert seen["failures"] == []
    assert all(seen["found"][renderer] for renderer in ("classic", "vue"))
