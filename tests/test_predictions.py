"""What `predict` makes of a network's own answer, against numbers worked out by hand, and how a family is sampled."""

from __future__ import annotations

import math

import pytest
import torch
from concept_erasure.erasure_core.denoiser import Conditioning
from concept_erasure.erasure_core.training.trajectory import sample_trajectories
from erasure_tests.families import small_model

pytestmark = pytest.mark.usefixtures("as_a_node_runs")

# layout, sigma, what the network is given for x = 2, and what `predict` makes of its answer 0.5
ROOT = math.sqrt(10)
BY_HAND = [
    ("SD2 eps", 3.0, 2 / ROOT, 0.5),
    # x0 = 2/10 - 0.5 * 3/sqrt(10) = -0.2743416; (2 + 0.2743416) / 3
    ("SD2 v", 3.0, 2 / ROOT, 0.7581139),
    ("Wan 2.1", 0.25, 2.0, 0.5),
    # t = 3/4; x0 = 2/4 - 0.5 * 3/4 = 0.125; (2 - 0.125) / 3
    ("Cosmos-Predict2", 3.0, 0.5, 0.625),
]


@pytest.mark.parametrize(("layout", "sigma", "given", "expected"), BY_HAND)
def test_a_prediction_by_hand(layout: str, sigma: float, given: float, expected: float, monkeypatch) -> None:
    testbed, seen = small_model(layout), []
    from concept_erasure.nodes import host

    def network(x: torch.Tensor, t: torch.Tensor, **_: object) -> torch.Tensor:
        seen.append(x)
        return torch.full_like(x, 0.5)

    with host.open_session(testbed.model, testbed.clip, 64, 64) as denoiser:
        text = denoiser.encode(["circle"])
        monkeypatch.setattr(testbed.model.model.diffusion_model, "forward", network)
        monkeypatch.setattr(denoiser, "_last_block", None)  # this network has no blocks that could be watched
        latents = torch.full_like(denoiser.empty_latents(1), 2.0)
        predicted = denoiser.predict(latents, torch.tensor([sigma]), text)
    assert torch.allclose(seen[0], torch.tensor(given), atol=1e-6)
    assert torch.allclose(predicted, torch.tensor(expected), atol=1e-6)
    assert torch.allclose(latents - sigma * predicted, torch.tensor(2.0 - sigma * expected), atol=1e-5)


def test_a_zero_terminal_snr_model_starts_from_its_own_noise() -> None:
    testbed = small_model("SDXL v ztsnr")
    from concept_erasure.nodes import host

    with host.open_session(testbed.model, testbed.clip, 64, 64) as denoiser:
        # the last alpha of the schedule is 4.8973e-8; sigma = sqrt((1 - a) / a)
        assert float(denoiser.sigmas(4)[0]) == pytest.approx(4518.75, rel=1e-4)
        samples, pictures = sample_trajectories(
            denoiser, denoiser.encode(["circle"]), 3, 3.0, torch.Generator().manual_seed(0)
        )
    assert samples.latents.isfinite().all() and pictures.isfinite().all()
    # a velocity model is asked at pure noise, where the noise it predicts is nearly all of x
    assert torch.allclose(samples.conditional[0], samples.latents[0] / 4518.75, atol=0.01)


@pytest.mark.parametrize(
    ("layout", "expected"),
    [("Flux.1 dev", (16, 1.0)), ("Flux.1 schnell", (4, 1.0)), ("Chroma", (16, 3.0)), ("Wan 2.1", (16, 3.0))],
)
def test_guidance_that_is_built_in_is_not_applied_twice(layout: str, expected: tuple[int, float]) -> None:
    testbed = small_model(layout)
    from concept_erasure.nodes import host

    with host.open_session(testbed.model, testbed.clip, 64, 64) as denoiser:
        assert denoiser.sampling(16, 3.0) == expected
        text = denoiser.encode(["circle"])
        assert ("guidance" in text.values) == (layout != "Wan 2.1")
        generator = torch.Generator().manual_seed(0)
        samples, _ = sample_trajectories(denoiser, text, 6, 3.0, generator)
        assert len(samples.sigma) == min(6, expected[0])
        first = samples.rows(torch.tensor([0, 1]))
        alone = bool(first.unconditional.isnan().all())
        assert alone == (expected[1] == 1.0), "a scale of 1 needs no second prediction"
        guided = first.conditional
        if not alone:
            guided = first.unconditional + expected[1] * (first.conditional - first.unconditional)
        moved = first.latents[0] + (first.sigma[1] - first.sigma[0]) * guided[0]
    assert torch.allclose(first.latents[1], moved, atol=1e-5)


@pytest.mark.parametrize("layout", ["Qwen-Image", "Z-Image", "SD1.5"])
def test_prompts_of_different_length_are_predicted_as_they_are_alone(layout: str) -> None:
    testbed, prompts = small_model(layout), ["circle", "a small red circle", "square"]
    from concept_erasure.nodes import host

    with host.open_session(testbed.model, testbed.clip, 64, 64) as denoiser, torch.no_grad():
        denoiser._precision = lambda: torch.autocast("cpu", enabled=False)
        noisy = torch.randn(denoiser.empty_latents(3).shape, generator=torch.Generator().manual_seed(0))
        sigma = denoiser.sigmas(4)[1].expand(3)
        together = denoiser.predict(noisy, sigma, denoiser.encode(prompts))
        for i, prompt in enumerate(prompts):
            alone = denoiser.predict(noisy[i : i + 1], sigma[:1], denoiser.encode([prompt]))
            assert torch.allclose(together[i], alone[0], atol=1e-4), prompt
        assert not torch.allclose(together[0], together[2], atol=1e-2)
        mixed = denoiser.encode(prompts).mixed(torch.eye(3)[[1, 0]])
        assert torch.allclose(denoiser.predict(noisy[:2], sigma[:2], mixed)[0], denoiser.predict(
            noisy[:1], sigma[:1], denoiser.encode([prompts[1]]))[0], atol=1e-4)  # fmt: skip


def test_text_is_never_repeated_where_it_would_count_double() -> None:
    short = Conditioning({"c_crossattn": torch.ones(1, 2, 3), "layout": torch.tensor([0])})
    long = Conditioning({"c_crossattn": torch.ones(2, 5, 3), "layout": torch.tensor([1, 1]), "mask": torch.ones(2, 5)})
    both = Conditioning.cat([short, long])
    assert both.tokens.shape == (3, 5, 3) and not both.tokens[0, 2:].any() and both.values["mask"][:1].sum() == 0
    assert both.values["layout"].tolist() == [0, 1, 1]


@pytest.mark.parametrize("layout", ["SD1.5", "Flux.1 dev"])
def test_what_is_cast_once_predicts_the_same_and_comes_back(layout: str) -> None:
    testbed = small_model(layout)
    from concept_erasure.nodes import host

    seen: set[torch.dtype] = set()
    with host.open_session(testbed.model, testbed.clip, 64, 64) as denoiser, torch.no_grad():
        denoiser._is_fast_in_bf16 = lambda: True
        network = denoiser._model.diffusion_model
        before = {name: (p.data_ptr(), p.dtype) for name, p in network.named_parameters()}
        noisy = torch.randn(denoiser.empty_latents(2).shape, generator=torch.Generator().manual_seed(0))
        asked = noisy, denoiser.sigmas(4)[1].expand(2), denoiser.encode(["circle", "square"])
        expected = denoiser.predict(*asked)
        reads = next(iter(denoiser.layers("cross_attention_kv").values()))
        hook = reads.register_forward_pre_hook(lambda _, inputs: seen.add(inputs[0].dtype))
        with pytest.raises(ZeroDivisionError), denoiser.learning():
            assert any(p.dtype != before[name][1] for name, p in network.named_parameters()), (
                "there is something to cast"
            )
            assert torch.equal(denoiser.predict(*asked), expected)
            assert layout != "SD1.5" or seen == {torch.bfloat16}, "the text was cast before a layer had to"
            _ = 1 / 0
        hook.remove()
        assert {name: (p.data_ptr(), p.dtype) for name, p in network.named_parameters()} == before
        assert torch.equal(denoiser.predict(*asked), expected)


def test_text_is_read_while_the_weights_are_cast() -> None:
    """Wan reads the text by a layer of its own, which AP's search asks outside of a prediction."""
    testbed = small_model("Wan 2.1")
    from concept_erasure.nodes import host
    from concept_erasure.nodes.host.cast_once import weights_cast_once

    with host.open_session(testbed.model, testbed.clip, 64, 64) as denoiser, torch.no_grad():
        denoiser._precision = lambda: torch.autocast("cpu", torch.bfloat16)
        tokens = denoiser.encode(["circle"]).tokens
        expected = denoiser.read(tokens)
        assert expected.dtype == torch.float32 and expected.shape[-1] != tokens.shape[-1]
        with weights_cast_once(denoiser._model.diffusion_model, torch.bfloat16):
            assert torch.equal(denoiser.read(tokens), expected)
