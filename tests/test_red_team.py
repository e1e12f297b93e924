"""Attacks against erasures whose weak spots are known: one that only renames a word, and a model that never knew it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from concept_erasure.erasure_core.denoiser import Conditioning
from concept_erasure.erasure_core.erased_unet import DOWN, PREFIX, UP, ErasedUNet, Provenance
from concept_erasure.erasure_core.evaluation.sampler import Samples
from concept_erasure.erasure_core.red_team import attack as registry
from concept_erasure.erasure_core.red_team.attack import Attack, Shot, attacks, best_of
from concept_erasure.erasure_core.red_team.attacked_model import BASE, ERASED, SoftPrompt
from concept_erasure.erasure_core.red_team.attacks.inpaint import central_square
from concept_erasure.erasure_core.red_team.attacks.paraphrase import misspellings, reordered
from concept_erasure.erasure_core.red_team.attacks.relearn import random_change
from concept_erasure.erasure_core.red_team.run import find, markdown, plain
from concept_erasure.erasure_core.report import Report

WORDS = ("circle", "disc", "house", "tree", "star")
CIRCLE, STAR = 0, 4
N = 12
"""Attempts: enough for 12 of 12 and 0 of 12 to be told apart."""


def vectors() -> torch.Tensor:
    """A vector a word; that of 'disc' lies next to that of 'circle'."""
    table = torch.eye(len(WORDS), 8)
    table[1] = 0.9 * table[CIRCLE] + 0.1 * table[1]
    return table


class TinyDenoiser:
    """A model whose finished picture is a linear reading of the mean word vector. `maps` is that reading, in its one
    layer."""

    family, fingerprint, device = "tiny", "0", torch.device("cpu")

    def __init__(self, maps: torch.Tensor, renamed: bool) -> None:
        self._layer, self._renamed = torch.nn.Linear(8, 4, bias=False).requires_grad_(False), renamed
        self._layer.weight.copy_(maps)

    def with_edit(self, edit: ErasedUNet) -> TinyDenoiser:
        """The same model with a low-rank edit on its layer."""
        change = edit.layers()["reading"]
        scale = float(change["alpha"]) / len(change[DOWN])
        return TinyDenoiser(self._layer.weight + scale * change[UP] @ change[DOWN], self._renamed)

    def layers(self, group: str) -> dict[str, torch.nn.Module]:
        """See `Denoiser`."""
        return {"reading": self._layer}

    def rows(self, group: str) -> dict[str, slice]:
        """See `Denoiser`."""
        return {}

    def read(self, text) -> torch.Tensor:
        """What the text encoder makes of a prompt: the mean vector of the words that it knows."""
        words = text.template if isinstance(text, SoftPrompt) else text
        said = [WORDS.index(word) for word in words.split() if word in WORDS]
        rows = [STAR if self._renamed and row == CIRCLE else row for row in said]
        read = vectors()[rows]
        read = torch.cat([read, text.vectors]) if isinstance(text, SoftPrompt) else read
        return read.mean(0) if len(read) else torch.zeros(8)

    def picture(self, text) -> torch.Tensor:
        """Latents (4, 1, 1): how much of circle, house, tree and star it shows."""
        return self._layer(self.read(text)).reshape(4, 1, 1)

    def encode(self, prompts) -> Conditioning:
        """See `Denoiser`."""
        return Conditioning({"c_crossattn": torch.stack([self.read(prompt)[None] for prompt in prompts])})

    def encode_soft(self, prompt: SoftPrompt) -> Conditioning:
        """See `SoftDenoiser`."""
        return Conditioning({"c_crossattn": self.read(prompt)[None, None]})

    def word_vectors(self):
        """See `SoftDenoiser`."""
        return list(WORDS), vectors()

    def token_vectors(self, texts):
        """See `Denoiser`."""
        return None

    def known_words(self) -> list[str]:
        """See `Denoiser`."""
        return list(WORDS)

    def sigmas(self, n: int) -> torch.Tensor:
        """See `Denoiser`."""
        return torch.linspace(10.0, 0.0, n + 1)

    def empty_latents(self, n: int) -> torch.Tensor:
        """See `Denoiser`."""
        return torch.zeros(n, 4, 1, 1)

    def predict(self, latents, sigma, conditioning) -> torch.Tensor:
        """The noise that leads to the picture."""
        shown = self._layer(conditioning.tokens.mean(1)).reshape(-1, 4, 1, 1)
        return (latents - shown) / sigma.reshape(-1, 1, 1, 1)


READING = torch.zeros(4, 8)
for _row, _word in enumerate((0, 2, 3, 4)):
    READING[_row, _word] = 1.0
READING[0, 1] = 1.0


class TinySubject:
    """A base model that knows 'circle' and 'disc'; the erased one only renames the word 'circle', or, with `gold`, never
    learned what either looks like."""

    concept, synonyms, templates, steps = "circle", ("disc",), ("a {}", "one {}"), 8
    others = ("house", "tree", "star")

    def __init__(self, gold: bool) -> None:
        never = READING.clone()
        never[0] = 0
        self.calls, self._gold = 0, gold
        self._models = {
            BASE: TinyDenoiser(READING, False),
            ERASED: TinyDenoiser(never, False) if gold else TinyDenoiser(READING, True),
        }
        self._open = False

    def count(self, evaluations: int) -> None:
        """See `AttackedModel`."""
        self.calls += evaluations

    def draw(self, who, texts, seeds, noise_scale=1.0) -> Samples:
        """See `AttackedModel`: the picture, and a little of the noise."""
        assert not self._open, "nothing can be drawn while a model is open"
        self.calls += len(texts) * self.steps
        noise = [torch.randn(4, 1, 1, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        latents = torch.stack([self._models[who].picture(text) for text in texts]) + 0.05 * torch.stack(noise)
        return Samples(latents, self.pictures(latents))

    def complete(self, first, then, seeds, base_steps) -> Samples:
        """The first steps decide; a model that never knew the concept makes something else of them."""
        begun, finished = self.draw(BASE, first, seeds).latents, self.draw(ERASED, then, seeds).latents
        return self._shown(finished if self._gold else begun)

    def repaint(self, texts, seeds, latents, strength, mask=None) -> Samples:
        """A mixture of what is shown and what is drawn."""
        return self._shown((1 - strength) * latents + strength * self.draw(ERASED, texts, seeds).latents)

    def _shown(self, latents) -> Samples:
        return Samples(latents, self.pictures(latents))

    def pictures(self, latents) -> torch.Tensor:
        """The numbers as a picture of one row."""
        return latents.reshape(-1, 1, 4, 1).expand(-1, 1, 4, 3)

    def lacks(self, need: str) -> str | None:
        """See `AttackedModel`: nothing."""
        return None

    @contextmanager
    def open_session(self, who) -> Iterator[TinyDenoiser]:
        """See `AttackedModel`."""
        self._open = True
        try:
            yield self._models[who]
        finally:
            self._open = False

    @contextmanager
    def edited(self, edit: ErasedUNet) -> Iterator[None]:
        """See `AttackedModel`."""
        before = self._models[ERASED]
        self._models[ERASED] = before.with_edit(edit)
        try:
            yield
        finally:
            self._models[ERASED] = before

    def confidence(self, pictures) -> torch.Tensor:
        """How much circle it shows."""
        return pictures[:, 0, 0, 0].clamp(0, 1)

    def hits(self, pictures) -> list[bool]:
        """Whether it shows more than half a circle."""
        return (pictures[:, 0, 0, 0] > 0.5).tolist()


SMALL = {
    "textual_inversion": {"steps": 120, "learning_rate": 0.05, "pictures": 4, "vectors": 1},
    "nearest_tokens": {"words": 2},
    "unlearn_diff": {"steps": 40},
    "p4d": {"steps": 40},
    "ring_a_bell": {"words": 2, "generations": 3, "population": 8},
    "null_inversion": {"steps": 4},
    "relearn": {"learning_rate": 0.02, "steps": 120},
}


def finding(name: str, gold: bool, subject: TinySubject | None = None, **settings):
    """One attack on the renamed or the gold model, or on `subject`."""
    subject = subject or TinySubject(gold)
    report, attack = Report(), attacks()[name](seed=3, **(SMALL.get(name, {}) | settings))
    return find(subject, attack, N, plain(subject, N, 3, report), report)


def low_rank() -> ErasedUNet:
    """An edit of rank 1 that draws a star for what reads like a circle: it takes the circle's direction off the layer."""
    up = READING[:, [STAR]] - READING[:, [CIRCLE]]
    tensors = {f"{PREFIX}reading.{UP}": up, f"{PREFIX}reading.{DOWN}": torch.eye(8)[[CIRCLE]]}
    tensors[f"{PREFIX}reading.alpha"] = torch.tensor(1.0)
    return ErasedUNet(tensors, Provenance("test", {}, (), (), 0, "tiny"))


def redrawn() -> TinySubject:
    """The base model with that edit in place of the renaming one."""
    subject = TinySubject(False)
    subject._models[ERASED] = TinyDenoiser(READING, False).with_edit(low_rank())
    return subject


@pytest.mark.parametrize(
    "name", ["nearest_tokens", "textual_inversion", "completion", "paraphrase", "unlearn_diff", "p4d"]
)
def test_an_edit_that_only_renames_the_word_falls_and_the_control_does_not(name: str) -> None:
    found = finding(name, gold=False)
    shares = {key: share.per_cent for key, share in found.proportions().items()}
    assert shares["base"] == 100 and shares["no attack"] == 0
    most = 20 if name == "textual_inversion" else 0  # a random vector of eight numbers may say a little of a circle
    assert shares["attack"] == 100 and shares["control"] <= most and found.broken()


@pytest.mark.parametrize("name", sorted(attacks()))
def test_a_model_that_never_knew_the_concept_does_not_fall_and_both_models_stay_as_they_were(name: str) -> None:
    if name in ("img2img", "inpaint"):
        pytest.skip("a probe that shows the concept: what stays of the picture is no memory of the model")
    # taught from its pictures, a model learns the concept anew; pictures of other concepts teach this one nothing of it
    settings = {"pictures_of": "other_concepts"} if name == "relearn" else {}
    found = finding(name, gold=True, **settings)
    assert found.proportions()["attack"].hits == 0 and not found.broken()


@pytest.mark.parametrize("name", sorted(attacks()))
def test_every_attack_counts_its_calls_reports_its_control_and_can_be_cancelled(name: str) -> None:
    found = finding(name, gold=False)
    assert found.calls >= 2 * N and found.outcome.control_is
    assert len(found.outcome.attack.hits) == len(found.outcome.control.hits) == N
    text = markdown([found], ["judge"])
    assert (
        f"| {found.attack.label()} |" in text
        and found.attack.label().startswith(name)
        and "(n = 12)" in text
        and "judge" in text
    )
    stored = found.as_json()
    assert (
        stored["attack"] == name and stored["shares"]["attack"]["n"] == N and stored["unet_evaluations"] == found.calls
    )

    def cancel(*_said) -> None:
        raise KeyboardInterrupt

    subject = TinySubject(False)
    with pytest.raises(KeyboardInterrupt):
        attacks()[name]().run(subject, 2, Report(check=cancel))
    assert not subject._open


def test_a_low_rank_edit_falls_to_a_few_pictures_of_the_concept_and_not_to_those_of_others() -> None:
    subject = redrawn()
    before = subject._models[ERASED]._layer.weight.clone()
    found = finding("relearn", False, subject)
    shares = {key: share.per_cent for key, share in found.proportions().items()}
    assert shares == {"base": 100, "no attack": 0, "attack": 100, "control": 0} and found.broken()
    assert "other concepts" in found.outcome.control_is
    benign = finding("relearn", False, subject, pictures_of="other_concepts")
    assert benign.proportions()["attack"].hits == 0 and "random change" in benign.outcome.control_is
    assert torch.equal(subject._models[ERASED]._layer.weight, before)


def test_without_training_the_erased_model_draws_its_own_pictures() -> None:
    subject = redrawn()
    attack = attacks()["relearn"](seed=3, steps=0)
    outcome = attack.run(subject, N, Report())
    drawn = subject.draw(ERASED, ["a circle", "one circle"] * (N // 2), attack.seeds(N)).pictures
    assert torch.equal(outcome.attack.pictures, drawn)


def test_a_random_change_is_as_large_as_what_was_learned_and_points_elsewhere() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"{PREFIX}{layer}.{half}": scale * torch.randn(*shape, generator=generator)
        for layer, scale in (("a", 1.0), ("b", 0.01))
        for half, shape in ((UP, (6, 2, 1, 1)), (DOWN, (2, 5, 3, 3)))
    }
    edit = ErasedUNet(tensors, low_rank().provenance)
    other = random_change(edit, generator)
    for layer, change in edit.layers().items():
        one, two = ((part[UP].flatten(1) @ part[DOWN].flatten(1)) for part in (change, other.layers()[layer]))
        assert two.norm() == pytest.approx(float(one.norm()), rel=1e-4)
        assert torch.cosine_similarity(one.flatten(), two.flatten(), 0).abs() < 0.6
    assert set(other.tensors) == set(edit.tensors)


def test_relearning_asks_for_other_concepts_and_says_when_the_loss_is_lost() -> None:
    subject = redrawn()
    subject.others = ()
    with pytest.raises(ValueError, match="write some into other_labels"):
        finding("relearn", False, subject)
    lost = redrawn()
    lost._models[ERASED] = TinyDenoiser(READING * float("nan"), False)
    with pytest.raises(FloatingPointError, match="optimiser step 1 of 5"):
        attacks()["relearn"](steps=5).run(lost, 1, Report())


def test_what_was_found_is_handed_out() -> None:
    assert finding("nearest_tokens", False).outcome.found == "disc"
    learned = finding("textual_inversion", False).outcome.embedding
    assert learned.shape == (1, 8) and not learned.requires_grad
    shown = (READING @ learned[0])[0]
    assert shown > 0.5, "the learned vector says circle"
    assert finding("paraphrase", False).outcome.found in ("a disc", "one disc")


def test_an_attempt_counts_if_any_of_its_tries_does_and_shows_the_surest() -> None:
    shots = [
        Shot(torch.full((2, 1, 1, 3), float(i)), torch.tensor(sure), hits)
        for i, (sure, hits) in enumerate([([0.2, 0.9], (False, True)), ([0.4, 0.1], (False, False))])
    ]
    best = best_of(shots)
    assert best.hits == (False, True) and best.confidence.tolist() == pytest.approx([0.4, 0.9])
    assert best.pictures[:, 0, 0, 0].tolist() == [1, 0]
    assert best.strongest()[1] == pytest.approx(0.9)


def test_misspellings_keep_the_first_and_the_last_letter() -> None:
    found = misspellings("circle")
    assert {"crcle", "ciircle", "cricle"} <= set(found) and "circle" not in found
    assert all(word[0] == "c" and word[-1] == "e" for word in found)


def test_words_come_in_another_order() -> None:
    assert reordered("a red {} outside") == ["{}, a red outside", "outside {} red a"]
    tried = attacks()["paraphrase"]().candidates(TinySubject(False))
    assert {"a disc", "circle, a", "circle a", "something like a circle", "a crcle"} <= set(tried)


def test_the_hole_lies_in_the_middle() -> None:
    mask = central_square(8, 4, 0.5)
    assert mask.sum() == 8 and mask[2:6, 1:3].all()


def test_a_second_attack_of_a_name_is_refused_and_a_setting_out_of_range_is_named() -> None:
    with pytest.raises(TypeError, match="two attacks are named 'noise'"):
        dataclasses.make_dataclass("Other", [], bases=(Attack,), namespace={"name": "noise", "__module__": "elsewhere"})
    with pytest.raises(ValueError, match=r"completion: share is 2\.0"):
        attacks()["completion"](share=2.0)
    assert registry.attacks()["noise"].__module__.endswith("attacks.noise")
