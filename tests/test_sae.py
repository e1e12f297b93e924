"""The sparse autoencoder: what it learns, what revives its latents, and its file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from concept_erasure.erasure_core.sae.autoencoder import ConceptSAE, default_block, fvu, load_sae, save_sae
from concept_erasure.erasure_core.sae.training import (
    SAESettings,
    _Trainee,
    batch_top_k,
    gather,
    geometric_median,
    train_sae,
)
from erasure_tests.toy import ToyDenoiser

PLANTED, WIDTH, ACTIVE = 24, 16, 2


def seeded(seed: int) -> torch.Generator:
    """A local generator."""
    return torch.Generator().manual_seed(seed)


def planted(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """n vectors, each a positive mix of two of 24 unit directions, and the directions."""
    generator = seeded(seed)
    directions = torch.nn.functional.normalize(torch.randn(PLANTED, WIDTH, generator=seeded(99)), dim=1)
    which = torch.rand(n, PLANTED, generator=generator).topk(ACTIVE, dim=1).indices
    amounts = 1 + torch.rand(n, ACTIVE, generator=generator)
    return (amounts[..., None] * directions[which]).sum(1), directions


def trained(data: torch.Tensor, **changes) -> ConceptSAE:
    """A small autoencoder of the data."""
    settings = SAESettings(**({"k": ACTIVE, "steps": 400, "learning_rate": 1e-2, "batch": 256} | changes))
    return train_sae(data, settings, generator=seeded(1), block="block", family="toy", fingerprint="0")


def test_a_planted_dictionary_is_recovered_and_a_shuffled_one_is_not() -> None:
    data, directions = planted(4000)
    shuffled = torch.stack([column[torch.randperm(len(data), generator=seeded(i))] for i, column in enumerate(data.T)])

    def recovered(sae: ConceptSAE) -> float:
        return float((directions @ sae.decoder.T).amax(1).mean())

    fresh, _ = planted(2000, seed=5)
    own, control = trained(data), trained(shuffled.T.contiguous())
    assert recovered(own) > 0.9 > recovered(control) + 0.1
    assert own.measured(fresh)[0] < 0.5 * control.measured(fresh)[0]


def test_k_latents_fire_on_average_on_vectors_not_seen() -> None:
    _, firing, _ = trained(planted(4000)[0]).measured(planted(2000, seed=5)[0])
    assert ACTIVE * 0.7 < firing < ACTIVE * 1.3


def test_dead_latents_revive_by_auxk_and_without_it_stay_dead(monkeypatch) -> None:
    data, _ = planted(4000)
    made = _Trainee.__init__

    def half_dead(self, *arguments) -> None:
        made(self, *arguments)
        with torch.no_grad():
            self.encoder_bias[: len(self.encoder_bias) // 2] -= 4.0

    monkeypatch.setattr(_Trainee, "__init__", half_dead)
    with_aux = trained(data, expansion=2, steps=600, dead_after=1000).training["dead_share"]
    without = trained(data, expansion=2, steps=600, dead_after=10**9).training["dead_share"]
    assert without >= 0.5 and with_aux < without - 0.15


def test_decoder_rows_have_length_one_whatever_the_scale_of_the_data() -> None:
    small, large = (trained(planted(2000)[0] * scale, steps=50) for scale in (1.0, 1000.0))
    for sae in (small, large):
        assert torch.allclose(sae.decoder.norm(dim=1), torch.ones(sae.latents), atol=1e-5)
    assert large.training["fvu"] == pytest.approx(small.training["fvu"], rel=1e-2)
    assert large.threshold == pytest.approx(1000 * small.threshold, rel=1e-2)


def test_the_median_ignores_outliers_and_the_top_k_is_over_the_batch() -> None:
    points = torch.cat([torch.randn(99, 3, generator=seeded(0)) * 0.1, torch.full((9, 3), 1000.0)])
    assert geometric_median(points, 200).norm() < 0.2 < points.mean(0).norm()
    kept = batch_top_k(torch.tensor([[5.0, 4.0, 3.0], [1.0, 2.0, 0.0]]), 1)
    assert torch.equal(kept, torch.tensor([[5.0, 4.0, 0.0], [0.0, 0.0, 0.0]]))
    x = torch.randn(50, 4, generator=seeded(2))
    assert fvu(x, x) == 0 and fvu(x, x.mean(0).expand_as(x)) == pytest.approx(1)


def test_what_is_gathered_is_the_prompted_half_at_every_level_and_bounded() -> None:
    denoiser = ToyDenoiser()
    blocks = denoiser.blocks("transformer")
    known = {"steps": 3, "guidance_scale": 3.0, "limit": 10**6}
    circle, both = (
        gather(denoiser, blocks, prompts, generator=seeded(0), **known)["block"]
        for prompts in (["circle"], ["circle"] * 20)
    )
    assert circle.shape == (3, 1, 16, 4) and both.shape == (3, 20, 16, 4)
    few = gather(denoiser, blocks, ["circle", "square"], generator=seeded(0), **(known | {"limit": 12}))["block"]
    assert few.shape == (3, 2, 2, 4)
    plain = gather(denoiser, blocks, [""], generator=seeded(0), **known)["block"]
    assert not torch.equal(plain, circle), "kept what the empty prompt gives"
    assert not any(module._forward_hooks for module in denoiser.network.modules())


def test_the_default_block_is_saeurons_and_exists_in_small_models() -> None:
    inputs = [f"input_blocks.{i}.1" for i in (1, 2, 4, 5, 7, 8)]
    names = [*inputs, "middle_block.1", *(f"output_blocks.{i}.1" for i in range(3, 12))]
    assert default_block(names) == "output_blocks.4.1"
    assert default_block(["only"]) == "only" and default_block(["a", "b", "c"]) == "b"


def test_a_file_comes_back_as_it_was_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    sae, path = trained(planted(500)[0], steps=5), tmp_path / "folder" / "sae.safetensors"
    save_sae(sae, path)
    again = load_sae(path)
    for entry in dataclasses.fields(sae):
        old, new = getattr(sae, entry.name), getattr(again, entry.name)
        assert torch.equal(old, new) if torch.is_tensor(old) else old == new, entry.name
    save_sae(dataclasses.replace(sae, decoder=sae.decoder[:3]), path)
    with pytest.raises(ValueError, match="decoder has shape"):
        load_sae(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="not a complete"):
        load_sae(path)


SMALL = ConceptSAE(torch.ones(3, 2), torch.zeros(3), torch.ones(3, 2), torch.zeros(2), 0.1, "block", 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": torch.full((3, 2), float("nan"))}, "encoder is of type torch.float32 or holds NaN"),
        ({"decoder_bias": torch.full((2,), float("inf"))}, "decoder_bias is of type"),
        ({"encoder": torch.ones(3, 2).to(torch.float8_e5m2)}, "encoder is of type torch.float8_e5m2"),
        (
            {"encoder": torch.ones(0, 2), "encoder_bias": torch.ones(0), "decoder": torch.ones(0, 2)},
            r"shape \(0, 0\)|shape \(0, 2\)",
        ),
        ({"encoder": torch.ones(6)}, r"encoder has shape \(6,\)"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"threshold": "0.1"}, "threshold is '0.1', and should be a number"),
        ({"threshold": None}, "threshold is 'None'"),
        ({"block": 3}, "block is '3', and should be the name of a block"),
        ({"k": 0}, "its k 0"),
        ({"k": "many"}, "k is 'many'"),
        ({"family": 1}, "family is '1'"),
        ({"fingerprint": []}, "fingerprint is"),
    ],
)
def test_a_file_of_no_autoencoder_is_refused_at_loading(change: dict, message: str, tmp_path: Path) -> None:
    path = tmp_path / "sae.safetensors"
    save_sae(SMALL, path)
    load_sae(path)
    save_sae(dataclasses.replace(SMALL, **change), path)
    with pytest.raises(ValueError, match=rf"sae\.safetensors: .*{message}.*get the original file or train anew"):
        load_sae(path)


def test_weights_that_are_not_finite_after_the_last_step_are_an_error(monkeypatch) -> None:
    monkeypatch.setattr(_Trainee, "normalise", lambda self: self.decoder.data.fill_(float("nan")))
    with pytest.raises(FloatingPointError, match="not finite after its last step"):
        trained(planted(500)[0], steps=1)


def test_a_broken_model_is_said_before_training() -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        trained(torch.full((10, 4), float("nan")))
