"""The text gate on the toy, whose word states are random: every known answer and its control."""

from __future__ import annotations

import pytest
import torch
from concept_erasure.erasure_core.hooks.gate import Gate, make_gate
from erasure_tests.toy import ToyDenoiser


def gate_of(concept: str, retain: tuple[str, ...] = ()) -> tuple[Gate, ToyDenoiser]:
    """A gate and the denoiser it was made for."""
    denoiser = ToyDenoiser()
    return make_gate(denoiser, concept, retain, torch.Generator().manual_seed(0)), denoiser


def test_it_opens_for_sentences_with_the_concept_and_for_no_others() -> None:
    gate, denoiser = gate_of("circle")
    saying = denoiser.encode(["circle", "a small circle", "a picture of a circle"]).tokens
    assert gate(saying).min() > 0.99
    silent = denoiser.encode(["", "a small tree", "a picture of a dog", "music"]).tokens
    assert gate(silent).max() < 0.01


def test_a_prompt_with_only_part_of_the_concept_opens_it_less() -> None:
    gate, denoiser = gate_of("golden gate")
    whole, part, none = gate(denoiser.encode(["a golden gate", "a golden tree", "a tree"]).tokens).tolist()
    assert whole > 0.99 > 0.9 > part and none < 0.01


def test_a_synonym_opens_it_more_than_a_look_alike() -> None:
    gate, denoiser = gate_of("circle")
    said, other = denoiser.encode(["circle"]).tokens[0, 0], denoiser.encode(["tree"]).tokens[0, 0]
    rest = denoiser.encode([""]).tokens[0, 1:]
    states = [torch.cat([(share * said + (1 - share) * other)[None], rest]) for share in (0.9, 0.25, 0.0)]
    near, alike, far = gate(torch.stack(states)).tolist()
    assert near > 0.9 and alike < 0.6 and far < 0.01, (near, alike, far)


def test_rows_are_independent_and_length_and_type_do_not_matter() -> None:
    gate, denoiser = gate_of("circle")
    tokens = denoiser.encode(["a circle", "", "red tree"]).tokens
    together = gate(tokens)
    assert torch.allclose(together, torch.cat([gate(row[None]) for row in tokens]), atol=1e-6)
    assert torch.allclose(together, gate(tokens.repeat(1, 3, 1)), atol=1e-5)
    assert torch.allclose(together, gate(tokens.bfloat16()), atol=0.05)
    assert gate(torch.cat([tokens, tokens[:, :2]], 1)).shape == (3,), "eight tokens are no multiple of six"


def test_a_retained_line_stays_closed_although_it_says_part_of_the_concept() -> None:
    free, denoiser = gate_of("golden gate")
    held, _ = gate_of("golden gate", ("golden tree",))
    prompt = denoiser.encode(["golden tree"]).tokens
    assert float(held(prompt)) < 0.01 and float(held(prompt)) <= float(free(prompt))
    assert float(held(denoiser.encode(["golden gate"]).tokens)) > 0.9


def test_what_the_text_does_not_tell_apart_is_refused() -> None:
    with pytest.raises(ValueError, match="does not tell 'circle' from what is to be kept"):
        gate_of("circle", ("a picture of a circle",))


def test_it_is_read_back_and_a_missing_tensor_is_named() -> None:
    gate, denoiser = gate_of("circle")
    parts = {f"gate.{name}": value for name, value in gate.tensors().items()}
    prompts = denoiser.encode(["a circle", "tree"]).tokens
    assert torch.equal(Gate.read(parts, "gate.")(prompts), gate(prompts))
    del parts["gate.own"]
    with pytest.raises(ValueError, match="own"):
        Gate.read(parts, "gate.")
