"""The closed forms against brute force, and what UCE and RECE make of a toy's text."""

from __future__ import annotations

import pytest
import torch
from concept_erasure.erasure_core.closed_form.ridge import (
    TextEdit,
    best_of_rank,
    compact,
    normal_matrix,
    normal_solution,
    solve,
)
from concept_erasure.erasure_core.closed_form.text_rows import TOKENS, aligned, retained_prompts
from concept_erasure.erasure_core.concepts import ConceptPair, ErasureRequest, parse_request
from concept_erasure.erasure_core.denoiser import Conditioning
from concept_erasure.erasure_core.method import methods
from concept_erasure.erasure_core.report import Report
from concept_erasure.erasure_core.text.prompt_templates import PromptTemplate
from erasure_tests.small import make
from erasure_tests.toy import ToyDenoiser
from torch import Tensor

WIDTH = 12
CLOSED = ("uce", "rece")


def rows(n: int, seed: int) -> Tensor:
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrix(edit: TextEdit) -> Tensor:
    """D, so that a layer's new weight is W (I + D)."""
    return edit.shift.T @ edit.down


def relative(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).norm() / expected.norm())


@pytest.mark.parametrize("count", [1, 5, WIDTH, 40])
@pytest.mark.parametrize("kept", [0, 7])
def test_the_solve_is_the_least_squares_solution_of_the_stacked_system(count: int, kept: int) -> None:
    states, desired, retain, weight = rows(count, 1), rows(count, 2), rows(kept, 3), rows(9, 4)
    erase_weight = rows(count, 5)[:, 0].square() + 0.1
    edit = solve(states, desired, retain, erase_weight=erase_weight, retain_weight=3.0, ridge=0.4)
    root, ridge = erase_weight.sqrt()[:, None], 0.4**0.5
    left = torch.cat([root * states, 3.0**0.5 * retain, ridge * torch.eye(WIDTH, dtype=torch.float64)])
    right = torch.cat([root * (desired @ weight.T), 3.0**0.5 * (retain @ weight.T), ridge * weight.T])
    expected = torch.linalg.lstsq(left, right, driver="gelsd").solution.T
    assert relative(weight + weight @ matrix(edit), expected) < 1e-8
    assert edit.rank <= min(count, WIDTH)
    assert relative(expected, weight) > 1e-3, "the system asks for no change, so the test shows nothing"


def test_an_infinite_ridge_changes_nothing_and_a_large_one_little() -> None:
    states, desired = rows(5, 1), rows(5, 2)
    assert torch.equal(
        matrix(solve(states, desired, ridge=float("inf"))), torch.zeros(WIDTH, WIDTH, dtype=torch.float64)
    )
    assert matrix(solve(states, desired, ridge=1e12)).norm() < 1e-9 < matrix(solve(states, desired, ridge=1.0)).norm()
    with pytest.raises(ValueError, match="ridge is 0"):
        solve(states, desired, ridge=0.0)


def test_the_order_of_rows_does_not_matter() -> None:
    states, desired, retain = rows(6, 1), rows(6, 2), rows(8, 3)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    again = solve(states[order], desired[order], retain.flip(0))
    assert relative(matrix(again), matrix(solve(states, desired, retain))) < 1e-10


@pytest.mark.parametrize("count", [9, 30])
def test_the_edit_of_a_rank_is_the_best_of_that_rank(count: int) -> None:
    """Against Eckart and Young in the whitened space, and worse if anything is moved."""
    states, desired, retain = rows(count, 1), rows(count, 2), rows(8, 3)
    edit, normal = solve(states, desired, retain), normal_matrix(states, retain, 1.0, 1.0, 0.5)
    cut = best_of_rank(edit, normal, 3)
    assert cut.rank == 3
    factor = torch.linalg.cholesky(normal)
    values = torch.linalg.svdvals(matrix(edit) @ factor)
    missing = ((matrix(cut) - matrix(edit)) @ factor).norm()
    assert float(missing) == pytest.approx(float(values[3:].norm()), rel=1e-3)
    plain = compact(edit)
    plain = TextEdit(plain.down[:3], plain.shift[:3])
    assert missing < ((matrix(plain) - matrix(edit)) @ factor).norm(), "as good as any three directions"


def test_compact_keeps_the_edit_and_drops_what_is_not_there() -> None:
    edit = solve(rows(4, 1), rows(4, 2))
    doubled = TextEdit(torch.cat([edit.down, edit.down]), torch.cat([edit.shift, -0.5 * edit.shift]))
    assert compact(doubled).rank == 4
    assert relative(matrix(compact(doubled)), matrix(doubled)) < 1e-10
    assert compact(TextEdit(edit.down, 0 * edit.shift)).rank == 0


def test_an_edit_on_top_of_an_edit_is_the_product() -> None:
    outer, inner, states = solve(rows(3, 1), rows(3, 2)), solve(rows(2, 3), rows(2, 4)), rows(5, 6)
    identity = torch.eye(WIDTH, dtype=torch.float64)
    expected = states @ ((identity + matrix(outer)) @ (identity + matrix(inner))).T
    assert relative(outer.after(inner).read(states), expected) < 1e-12


@pytest.mark.parametrize("tokens", TOKENS)
def test_rows_are_aligned_at_the_end_of_the_sentence(tokens: str) -> None:
    """The toy's states depend on the word alone, so whatever follows the concept is asked to stay as it is."""
    denoiser, sentence = ToyDenoiser(), PromptTemplate("small {} house", "small house")
    found = aligned(denoiser, ConceptPair("big circle", "square"), sentence, tokens)
    word = {name: denoiser.encode([name]).tokens[0, 0].double() for name in ("big", "circle", "square", "house")}
    moved = {"last": ["circle"], "all": ["big", "circle"], "others": []}[tokens]
    for index, name in enumerate(moved):
        assert torch.equal(found.states[index], word[name]) and torch.equal(found.desired[index], word["square"])
    assert torch.equal(found.states[len(moved) :], found.desired[len(moved) :])
    assert (len(found.states) > len(moved)) == (tokens != "last")
    removed = aligned(denoiser, ConceptPair("circle"), sentence, "last", eta=1.0)
    small = denoiser.encode(["small"]).tokens[0, 0].double()
    assert torch.allclose(removed.desired[0], 2 * small - word["circle"]), (
        "without an anchor: the word before, and past it"
    )


def test_no_kept_prompt_says_a_target_or_its_synonym() -> None:
    request = parse_request("circle\nred => blue", "a red house")
    prompts = retained_prompts(request, ["square", "tree", "car"], ["box"], sentences=40, seed=0)
    assert not [p for p in prompts if {"circle", "red", "box"} & set(p.split()) and p not in request.retain]
    assert {"", "square", "a red house"} <= set(prompts)
    assert any("box" in p.split() for p in retained_prompts(request, ["tree"], [], sentences=400, seed=0)), "no control"


def read_by(denoiser: ToyDenoiser, erased, prompt: str, row: int = 0) -> tuple[Tensor, Tensor]:
    """Keys and values of one token before and after the edit, one behind the other."""
    state = denoiser.encode([prompt]).tokens[0, row]
    before, after = [], []
    for name, layer in denoiser.layers("cross_attention_kv").items():
        key = f"diffusion_model.{name}"
        if f"{key}.diff" in erased.tensors:
            delta = erased.tensors[f"{key}.diff"]
        else:
            delta = erased.tensors[f"{key}.lora_up.weight"] @ erased.tensors[f"{key}.lora_down.weight"]
        before.append(layer.weight @ state)
        after.append((layer.weight + delta) @ state)
    return torch.cat(before), torch.cat(after)


EXACT = {"negative_guidance": 0.0, "rank": 0, "ridge": 1e-3, "candidates": 3, "kept_sentences": 0}


@pytest.mark.parametrize("name", CLOSED)
def test_the_target_is_read_as_the_anchor_and_retained_words_as_before(name: str) -> None:
    denoiser = ToyDenoiser()
    request = parse_request("circle => square", "dog")
    settings = EXACT | {"tokens": "last", "vocabulary": "none"}
    erased = make(name, **settings).erase(denoiser, request, Report())
    _, target = read_by(denoiser, erased, "circle")
    anchor, _ = read_by(denoiser, erased, "square")
    assert relative(target, anchor) < 1e-2
    assert relative(*read_by(denoiser, erased, "dog")) < (1e-2 if name == "uce" else 0.1)
    assert relative(*read_by(denoiser, erased, "circle")) > 0.3, "nothing was erased"


@pytest.mark.parametrize("name", CLOSED)
def test_the_order_of_pairs_and_of_retain_lines_does_not_matter(name: str) -> None:
    pairs, retain = (ConceptPair("circle", "square"), ConceptPair("dog", "cat")), ("tree", "a red house")
    denoiser = ToyDenoiser()
    requests = ErasureRequest(pairs, retain), ErasureRequest(pairs[::-1], retain[::-1])
    both = [make(name, rank=0, candidates=5).erase(denoiser, request, Report()) for request in requests]
    for prompt in ("circle", "dog", "tree", "bird"):
        first, again = (read_by(denoiser, erased, prompt)[1] for erased in both)
        assert relative(again, first) < 1e-4


def test_rece_without_epochs_is_uce_and_its_leftover_states_solve_their_problem() -> None:
    denoiser, request = ToyDenoiser(), parse_request("circle => square")
    uce, rece = (make(name, epochs=0).erase(denoiser, request, Report()).tensors for name in CLOSED)
    assert uce.keys() == rece.keys() and all(torch.allclose(uce[key], rece[key], atol=1e-6) for key in uce)

    from concept_erasure.erasure_core.methods.rece import layers_gram, leftover

    weights, edit, states, rho = (
        [rows(n, n) for n in (5, 30)],
        solve(rows(3, 1), rows(3, 2), rows(4, 3)),
        rows(3, 1),
        0.3,
    )
    found = leftover(edit, layers_gram(weights), states, rho)
    stacked = torch.cat(weights)
    edited = stacked + stacked @ matrix(edit)
    left = torch.cat([edited, rho**0.5 * torch.eye(WIDTH, dtype=torch.float64)])
    right = torch.cat([stacked @ states.T, torch.zeros(WIDTH, len(states), dtype=torch.float64)])
    assert relative(found, torch.linalg.lstsq(left, right).solution.T) < 1e-8


def test_rece_leaves_less_over_than_uce() -> None:
    """The state that UCE leaves over still gives the target's keys and values; after RECE it gives the anchor's."""
    from concept_erasure.erasure_core.methods.rece import layers_gram, leftover

    states, desired, retain, weight = rows(2, 1), rows(2, 2), rows(5, 3), rows(30, 4)
    gram = layers_gram([weight])
    edit = solve(states, desired, retain, ridge=0.1)
    found = leftover(edit, gram, states, 1e-3)
    deeper = edit.after(solve(found, desired, retain, ridge=0.1))
    target = states @ weight.T
    assert relative(edit.read(found) @ weight.T, target) < 0.1
    assert relative(deeper.read(found) @ weight.T, target) > 0.5


@pytest.mark.parametrize("name", CLOSED)
def test_settings_that_change_nothing_are_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="changed nothing"):
        request = parse_request("circle => square")
        method = make(name, **EXACT | {"tokens": "others", "epochs": 0})
        method.erase(ToyDenoiser(), request, Report())


def test_a_layer_is_stored_whole_where_that_is_smaller() -> None:
    small = make("uce", rank=1).erase(ToyDenoiser(), parse_request("circle"), Report())
    whole = make("uce", rank=0, tokens="all").erase(ToyDenoiser(), parse_request("circle\ndog\ncat\ntree"), Report())
    assert {key.rsplit(".", 1)[-1] for key in small.tensors} == {"weight", "alpha"}
    assert small.size() < whole.size()
    assert "uce" in methods()


@pytest.mark.parametrize("name", ["uce", "rece", "mace"])
@pytest.mark.parametrize("broken", ["circle", "square", "disc"])
def test_text_states_that_are_not_finite_are_named(name: str, broken: str, monkeypatch) -> None:
    """In the target, in the anchor and in what is kept."""
    whole = ToyDenoiser.encode

    def encode(self: ToyDenoiser, prompts: list[str]) -> Conditioning:
        states = whole(self, prompts).tokens
        states[[broken in prompt for prompt in prompts]] *= float("nan")
        return Conditioning({"c_crossattn": states})

    monkeypatch.setattr(ToyDenoiser, "encode", encode)
    with pytest.raises(FloatingPointError, match=r"hold NaN or infinity; nothing was returned\. Load CLIP"):
        make(name, vocabulary="none").erase(ToyDenoiser(), parse_request("circle => square", "disc"), Report())


def test_weights_that_are_not_finite_are_named_by_rece() -> None:
    denoiser = ToyDenoiser()
    denoiser.network["block"].to_k.weight[0, 0] = float("inf")
    with pytest.raises(FloatingPointError, match="hold NaN or infinity"):
        make("rece", vocabulary="none").erase(denoiser, parse_request("circle"), Report())


def test_a_system_without_a_stable_solution_is_named() -> None:
    with pytest.raises(FloatingPointError, match=r"no stable solution; nothing was returned\. Raise ridge"):
        normal_solution(-torch.eye(3, dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64))
