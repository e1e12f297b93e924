"""Red-Team Concept in the real host: attacks run through ComfyUI's sampler and text encoder and change nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from concept_erasure.erasure_core.erased_unet import load_erased_unet
from concept_erasure.erasure_core.evaluation.judges.judge import ConceptJudge, load_judge
from concept_erasure.erasure_core.evaluation.sampler import Sampling
from concept_erasure.erasure_core.red_team.attack import attacks
from concept_erasure.erasure_core.red_team.attacked_model import BASE, ERASED, SoftPrompt
from erasure_tests.runs import base_hash, drawing_inputs
from erasure_tests.runs import run as erase_quickly

from playground.build import build_judge
from testbed.playground import Playground

pytestmark = pytest.mark.usefixtures("as_a_node_runs")
STEPS = 3
EDIT = Path(__file__).parent.parent / "playground" / "weights" / "erased_circle.safetensors"


@pytest.fixture(scope="module")
def judge(tmp_path_factory) -> ConceptJudge:
    """The playground's judge of shapes."""
    folder = tmp_path_factory.mktemp("judges")
    build_judge(folder)
    return load_judge(folder / "shape", "shape", torch.device("cpu"))


def models(testbed: Playground) -> tuple:
    """Base and erased model."""
    from concept_erasure.nodes import host

    return testbed.model, host.patched(testbed.model, load_erased_unet(EDIT), 1.0)


def inputs(testbed: Playground, judge: ConceptJudge, prefix: str) -> dict[str, Any]:
    """What a node that attacks is given by name."""
    erased = models(testbed)[1]
    return drawing_inputs(testbed, erased, prefix, STEPS) | {
        "judge": judge, "concept": "circle", "templates": "a red {}", "attempts": 1,
    }  # fmt: skip


def subject(testbed: Playground, judge: ConceptJudge, erased: object = None):
    """The playground under attack, in three sampling steps."""
    from concept_erasure.nodes import host

    base, patched = models(testbed)
    sampling = Sampling(64, 64, STEPS, 3.0, "euler", "normal", batch_size=4)
    linked = host.LinkedModels(base, erased or patched, testbed.clip, testbed.vae, judge, sampling)
    return host.ComfyAttackedModel(linked, "circle", ("a red {}",), ("disc",))


def test_a_completion_by_the_same_model_is_the_picture_itself(testbed, judge) -> None:
    whole = subject(testbed, judge, testbed.model)
    drawn = whole.draw(BASE, ["a red circle"], [5])
    finished = whole.complete(["a red circle"], ["a red circle"], [5], 1)
    assert torch.allclose(drawn.latents, finished.latents, atol=1e-4)
    assert whole.calls == 2 * 2 * STEPS


def test_a_weak_repainting_keeps_the_picture_and_a_mask_keeps_what_is_outside(testbed, judge) -> None:
    from concept_erasure.erasure_core.red_team.attacks.inpaint import central_square

    one = subject(testbed, judge)
    shown = one.draw(BASE, ["a red circle"], [5]).latents
    weak, strong = (one.repaint(["a red circle"], [6], shown, strength).latents for strength in (0.1, 1.0))
    assert (weak - shown).abs().mean() < (strong - shown).abs().mean()
    mask = central_square(8, 8, 0.5)
    filled = one.repaint(["a red circle"], [6], shown, 1.0, mask).latents
    assert torch.allclose(filled[..., mask == 0], shown[..., mask == 0], atol=1e-3)
    assert not torch.allclose(filled[..., mask == 1], shown[..., mask == 1], atol=1e-2)


def test_the_vectors_of_a_word_read_as_the_word_and_gradients_reach_them(testbed, judge) -> None:
    with subject(testbed, judge).open_session(ERASED) as denoiser:
        words, table = denoiser.word_vectors()
        vector = table[[words.index("circle")]].clone().requires_grad_(True)
        soft = denoiser.encode_soft(SoftPrompt("a red {}", vector))
        plain = denoiser.encode(["a red circle"]).tokens  # in half precision
        assert torch.allclose(soft.tokens, plain, rtol=2**-11, atol=1e-4)
        two = denoiser.encode_soft(SoftPrompt("a red {}", table[:2]))
        assert two.tokens.shape == soft.tokens.shape
        soft.tokens.square().sum().backward()
        assert vector.grad.abs().sum() > 0
        with pytest.raises(ValueError, match="too long"):
            denoiser.encode_soft(SoftPrompt("a red {}", table[:90]))


QUICK = {
    "nearest_tokens": {"words": 1, "tries": 1},
    "noise": {"tries": 1},
    "null_inversion": {"steps": 2, "refinements": 1},
    "p4d": {"steps": 2, "words": 2},
    "paraphrase": {"wordings": 2, "tries": 1},
    "relearn": {"steps": 2, "pictures": 2, "layers": "cross_attention"},
    "ring_a_bell": {"words": 2, "population": 4, "generations": 1},
    "textual_inversion": {"steps": 2, "pictures": 1},
    "unlearn_diff": {"steps": 2, "words": 2},
}


LEARNING = {"p4d": 2, "relearn": 4, "textual_inversion": 2, "unlearn_diff": 2}
"""Optimiser steps of the attacks that learn, under these settings: `relearn` also trains its control."""


@contextmanager
def calls_of_the_network(testbed: Playground) -> Iterator[list[tuple[int, bool]]]:
    """Of each call of the UNet: how many rows it has, and whether with gradients."""
    calls: list[tuple[int, bool]] = []
    network = testbed.model.model.diffusion_model
    hook = network.register_forward_pre_hook(lambda _, given: calls.append((len(given[0]), torch.is_grad_enabled())))
    try:
        yield calls
    finally:
        hook.remove()


@pytest.mark.parametrize("name", sorted(attacks()))
def test_an_attack_runs_in_batches_and_leaves_both_models_as_they_were(testbed, judge, name) -> None:
    """And takes gradients in its optimiser steps alone."""
    from concept_erasure.nodes import host
    from concept_erasure.nodes.runs.red_team import run

    one = subject(testbed, judge)
    drawn = one.draw(ERASED, ["a red circle"], [7]).pictures
    host.use(testbed.model)  # clones share one network, and the drawing left the erased one's weights in it
    before, counted = base_hash(testbed), one.calls
    with calls_of_the_network(testbed) as calls:
        found = run(one, attacks()[name](**QUICK.get(name, {})), 2)
    assert base_hash(testbed) == before
    assert torch.equal(one.draw(ERASED, ["a red circle"], [7]).pictures, drawn)
    assert found.outcome.attack.pictures.shape == (2, 64, 64, 3)
    assert sum(gradients for _, gradients in calls) == LEARNING.get(name, 0)
    assert max(rows for rows, _ in calls) >= 4, "two pictures and both halves of guidance in one call"
    assert found.calls > 0 and sum(rows for rows, _ in calls) == one.calls - counted - 2 * STEPS


def relearned(one, **settings) -> torch.Tensor:
    """What is drawn after a short training."""
    from concept_erasure.erasure_core.report import Report

    attack = attacks()["relearn"](pictures=1, layers="cross_attention", **settings)
    return attack.run(one, 1, Report()).attack.pictures


def test_without_training_the_erased_model_draws_its_own_pictures_bit_for_bit(testbed, judge) -> None:
    one = subject(testbed, judge)
    assert "square" in one.others and not {"circle", "disc"} & set(one.others)
    own = one.draw(ERASED, ["a red circle"], attacks()["relearn"]().seeds(1)).pictures
    assert torch.equal(relearned(one, steps=0), own)
    assert not torch.equal(relearned(one, steps=2, learning_rate=0.01), own)
    assert torch.equal(one.draw(ERASED, ["a red circle"], attacks()["relearn"]().seeds(1)).pictures, own)


def test_relearning_goes_on_top_of_an_edit_that_acts_while_sampling(testbed, judge, few_words) -> None:
    from concept_erasure.nodes import host

    edit, _ = erase_quickly(testbed, "spm", learning_rate=0.01)
    assert edit.provenance.kind == "hook"
    one = subject(testbed, judge, host.patched(testbed.model, edit, 1.0))
    host.use(testbed.model)
    before = base_hash(testbed)
    base, gated, both = (
        one.draw(BASE, ["a red circle"], [100_000]).pictures,
        one.draw(ERASED, ["a red circle"], [100_000]).pictures,
        relearned(one, steps=2, learning_rate=0.001),
    )
    assert not any(torch.equal(*pair) for pair in ((base, gated), (gated, both), (base, both)))
    host.use(testbed.model)
    assert base_hash(testbed) == before


def test_the_node_writes_its_files_and_an_embedding_that_comfyui_reads(testbed, judge, monkeypatch, tmp_path) -> None:
    from concept_erasure.nodes import host
    from concept_erasure.nodes.red_team import RedTeamConcept

    monkeypatch.setattr(RedTeamConcept, "hidden", SimpleNamespace(unique_id="7"), raising=False)
    monkeypatch.setattr(host, "output_folder", lambda: str(tmp_path))
    monkeypatch.setattr(host, "folders", lambda kind: [tmp_path / kind])
    chosen = {"attack": "textual_inversion", "steps": 2, "pictures": 1, "vectors": 2}
    grid, report = RedTeamConcept.execute(**inputs(testbed, judge, "red/team"), attack=chosen).args
    assert grid.shape[0] == 1 and grid.std() > 0 and "right in" in report
    names = {path.name for path in (tmp_path / "red").iterdir()}
    assert names == {f"team_00001_{end}" for end in ("grid.png", "strongest.png", ".md", ".json")}
    stored = json.loads((tmp_path / "red" / "team_00001_.json").read_text("utf-8"))
    assert stored["judge"] == "shape" and stored["judge_accuracy"][0]["right"] > 0
    (file,) = (tmp_path / "embeddings" / "red_team").iterdir()
    assert stored["embedding"] == file.name
    tokenizer = testbed.clip.tokenizer.clip_l
    monkeypatch.setattr(tokenizer, "embedding_directory", [str(tmp_path / "embeddings")])
    (tokens,) = testbed.clip.tokenize(f"a red embedding:red_team/{file.stem}.safetensors")["l"]
    assert sum(torch.is_tensor(token) for token, *_ in tokens) == 2


def test_bad_input_is_named_before_anything_is_drawn(testbed, judge, monkeypatch) -> None:
    from concept_erasure.nodes import host
    from concept_erasure.nodes.red_team import RedTeamConcept

    monkeypatch.setattr(RedTeamConcept, "hidden", SimpleNamespace(unique_id="7"), raising=False)
    monkeypatch.setattr(host.ComfyImageSampler, "sample", lambda *_, **__: pytest.fail("something was drawn"))
    given = inputs(testbed, judge, "x")
    for concept, attack, templates, said in (
        ("giraffe", {"attack": "noise"}, "a {}", "no label for 'giraffe'"),
        ("circle", {"attack": "noise", "tries": 0}, "a {}", "tries is 0"),
        ("circle", {"attack": "nothing"}, "a {}", "unknown attack"),
        ("circle", {"attack": "noise"}, "a", "has no"),
        (" ", {"attack": "noise"}, "a {}", "concept is empty"),
    ):
        with pytest.raises(ValueError, match=said):
            RedTeamConcept.execute(**given | {"concept": concept, "attack": attack, "templates": templates})


CHEAP = "completion\nnoise tries=1\n"


def summary(testbed: Playground, judge: ConceptJudge, monkeypatch, folder: Path, chosen: str, prefix: str):
    """Run the node, its files in `folder`."""
    from concept_erasure.nodes import host
    from concept_erasure.nodes.red_team_summary import RedTeamSummary

    monkeypatch.setattr(RedTeamSummary, "hidden", SimpleNamespace(unique_id="7"), raising=False)
    monkeypatch.setattr(host, "output_folder", lambda: str(folder))
    return RedTeamSummary.execute(**inputs(testbed, judge, prefix), attacks=chosen).args


def test_the_summary_draws_one_page_of_all_attacks(testbed, judge, monkeypatch, tmp_path) -> None:
    page, report = summary(testbed, judge, monkeypatch, tmp_path, CHEAP, "red/all")
    assert page.shape[0] == 1 and page.std() > 0
    assert {path.name for path in (tmp_path / "red").iterdir()} == {
        f"all_00001_{e}" for e in ("page.png", ".md", ".json")
    }
    stored = json.loads((tmp_path / "red" / "all_00001_.json").read_text("utf-8"))
    assert stored["complete"] and [one["attack"] for one in stored["attacks"]] == ["completion", "noise"]
    assert stored["judge"] == "shape" and stored["judge_accuracy"][0]["right"] > 0
    assert "falls to: " in report and "survives: " in report and "| completion |" in report and "right in" in report


def test_a_cancelled_summary_leaves_the_attacks_that_are_over(testbed, judge, monkeypatch, tmp_path) -> None:
    from concept_erasure.nodes import host
    from concept_erasure.nodes.runs.progress import NodeProgress

    def cancelled(_progress: NodeProgress, doing: str = "", **_done: float) -> None:
        if doing.startswith("attack 2"):
            raise host.Cancelled

    host.use(testbed.model)
    before = base_hash(testbed)
    monkeypatch.setattr(NodeProgress, "check", cancelled)
    with pytest.raises(host.Cancelled):
        summary(testbed, judge, monkeypatch, tmp_path, CHEAP, "cut")
    stored = json.loads((tmp_path / "cut_partial_00001_.json").read_text("utf-8"))
    assert not stored["complete"] and [one["attack"] for one in stored["attacks"]] == ["completion"]
    assert base_hash(testbed) == before


SENTENCES = ("a red {}", "a blue {}", "a solid {}")


def renamed(testbed: Playground, word: str, other: str):
    """A MODEL that only renames a word: what the text encoder makes of these sentences with it is read as with the other.
    The weights, and all that they know, stay."""
    pairs = [[testbed.text(sentence.replace("{}", said))[0] for said in (word, other)] for sentence in SENTENCES]

    def wrapper(apply_model, given):
        tokens = given["c"]["c_crossattn"].clone()
        for row in tokens:
            for said, becomes in pairs:
                if torch.allclose(row, said.to(row), atol=1e-3):
                    row.copy_(becomes)
        return apply_model(given["input"], given["timestep"], **(given["c"] | {"c_crossattn": tokens}))

    model = testbed.model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    return model


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("nearest_tokens", {"words": 3, "tries": 1}),
        ("completion", {"share": 0.6}),
    ],
)
def test_an_edit_that_only_renames_a_word_falls_on_the_playground(testbed, judge, name, settings) -> None:
    """The known answer in the real host; `test_red_team` has it exactly, with controls, a model that never knew it, and
    `textual_inversion`, which here would take minutes."""
    from concept_erasure.nodes import host
    from concept_erasure.nodes.runs.red_team import run

    sampling = Sampling(64, 64, 12, 3.0, "euler", "normal", batch_size=8)
    model = renamed(testbed, "circle", "star")
    linked = host.LinkedModels(testbed.model, model, testbed.clip, testbed.vae, judge, sampling)
    one = host.ComfyAttackedModel(linked, "circle", SENTENCES)
    shares = run(one, attacks()[name](**settings), 4).proportions()
    assert shares["base"].hits == 4 and shares["no attack"].hits == 0 and shares["attack"].hits >= 3
