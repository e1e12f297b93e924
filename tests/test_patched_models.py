"""MODELs with ComfyUI's own nodes on them: what is learned from is what its sampler asks the network, and no cache."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from erasure_tests.families import small_model
from erasure_tests.runs import base_hash, run
from torch import Tensor

from devtools.hosting.inprocess import load_comfy
from testbed.playground import Playground

pytestmark = pytest.mark.usefixtures("as_a_node_runs", "few_words")
TINY = {"steps": 2, "sampling_steps": 2, "trajectories": 1, "batch": 1, "learning_rate": 0.01}
GUIDANCE = {
    "nodes_apg.APG", "nodes_cfg.CFGNorm", "nodes_cfg.CFGZeroStar", "nodes_eps.EpsilonScaling",
    "nodes_eps.TemporalScoreRescaling",
    "nodes_fresca.FreSca", "nodes_mahiro.Mahiro", "nodes_model_advanced.RescaleCFG", "nodes_pag.PerturbedAttentionGuidance",
    "nodes_sag.SelfAttentionGuidance", "nodes_slg.SkipLayerGuidanceDiT", "nodes_slg.SkipLayerGuidanceDiTSimple",
    "nodes_tcfg.TCFG", "nodes_video_model.VideoLinearCFGGuidance", "nodes_video_model.VideoTriangleCFGGuidance",
    "nodes_lumina2.RenormCFG",
}  # fmt: skip
"""What only changes how the predictions with and without the prompt are put together."""
CACHES = {"nodes_easycache.EasyCacheNode", "nodes_easycache.LazyCacheNode"}
OF_UNETS = {
    "nodes_attention_multiply.UNetCrossAttentionMultiply", "nodes_attention_multiply.UNetSelfAttentionMultiply",
    "nodes_freelunch.FreeU", "nodes_freelunch.FreeU_V2", "nodes_hypertile.HyperTile", "nodes_tomesd.TomePatchModel",
    "nodes_model_advanced.ModelSamplingContinuousEDM", "nodes_model_advanced.ModelSamplingDiscrete",
    "nodes_model_downscale.PatchModelAddDownscale",
}  # fmt: skip
OF_TRANSFORMERS = {
    "nodes_context_windows.WanContextWindowsManualNode", "nodes_model_advanced.ModelSamplingSD3", "nodes_rope.ScaleROPE",
}  # fmt: skip
OF_BOTH = {
    "nodes_context_windows.ContextWindowsManualNode", "nodes_custom_sampler.CFGOverride", "nodes_nag.NAGuidance",
    "nodes_differential_diffusion.DifferentialDiffusion", "nodes_model_advanced.ModelComputeDtype",
}  # fmt: skip


def with_node(model: Any, name: str, **changes: Any) -> Any:
    """What the node of `comfy_extras` makes of a MODEL, its other inputs at their defaults."""
    load_comfy()
    module, _, cls = name.partition(".")
    node = getattr(importlib.import_module(f"comfy_extras.{module}"), cls)
    given = {}
    if hasattr(node, "define_schema"):
        for one in node.define_schema().inputs[1:]:
            given[one.id] = one.options[0] if one.io_type == "COMBO" and one.default is None else one.default
        made = node.execute(model, **(given | changes))
        return getattr(made, "args", made)[0]
    for key, (kind, *options) in node.INPUT_TYPES()["required"].items():
        if key != "model":
            given[key] = kind[0] if isinstance(kind, list | tuple) else options[0]["default"]
    made = node()
    return getattr(made, node.FUNCTION)(model, **(given | changes))[0]


def beside(testbed: Playground, model: Any) -> Playground:
    """The same text encoder with another MODEL."""
    return Playground(model, testbed.clip, testbed.vae, {})


def noisy(testbed: Playground) -> Tensor:
    """Unit noise for one picture of 64x64."""
    from concept_erasure.nodes.host.shapes import latent_shape

    shape = latent_shape(testbed.model, 64, 64)
    return torch.randn((1, *shape), generator=torch.Generator().manual_seed(2))


def asked_by_the_sampler(testbed: Playground) -> tuple[Tensor, Tensor, Tensor]:
    """Latents and noise level of KSampler's first step, and what it took the network's answer to be."""
    import comfy.sample

    seen: list[tuple[Tensor, Tensor]] = []
    text = [testbed.clip.encode_from_tokens_scheduled(testbed.clip.tokenize("a red circle"))[0]]
    torch.manual_seed(0)  # HyperTile and ToMe choose tiles at random
    sigmas = comfy.samplers.calculate_sigmas(testbed.model.get_model_object("model_sampling"), "normal", 4)
    comfy.sample.sample(
        testbed.model,
        noisy(testbed),
        4,
        1.0,
        "euler",
        "normal",
        text,
        text,
        torch.zeros_like(noisy(testbed)),
        disable_pbar=True,
        seed=0,
        callback=lambda _step, denoised, x, _total: seen.append((x.clone(), denoised.clone())),
    )
    return seen[0][0], sigmas[:1], seen[0][1]


def asked_by_us(testbed: Playground, latents: Tensor, sigma: Tensor) -> Tensor:
    """What the network's answer is to a method."""
    from concept_erasure.nodes import host

    with host.open_session(testbed.model, testbed.clip, 64, 64) as denoiser, torch.no_grad():
        denoiser._precision = nullcontext
        denoiser.sigmas(4)
        text = denoiser.encode(["a red circle"])
        torch.manual_seed(0)
        shape = (-1, *[1] * (latents.ndim - 1))
        return latents - sigma.reshape(shape) * denoiser.predict(latents.clone(), sigma, text)


PAIRS = [
    *(("SD1.5", name) for name in sorted(GUIDANCE | CACHES | OF_UNETS | OF_BOTH)),
    *(("Wan 2.1", name) for name in sorted(CACHES | OF_TRANSFORMERS | OF_BOTH)),
]


@pytest.mark.parametrize(("layout", "name"), PAIRS)
def test_a_method_sees_what_the_sampler_sees_and_erases(layout: str, name: str) -> None:
    testbed = small_model(layout)
    changed = beside(testbed, with_node(testbed.model, name))
    before = base_hash(testbed)
    latents, sigma, denoised = asked_by_the_sampler(changed)
    if name not in GUIDANCE:
        torch.testing.assert_close(asked_by_us(changed, latents, sigma), denoised, rtol=1e-3, atol=1e-3)
    erased, report = run(changed, "esd", **TINY)
    assert not erased.is_zero() and erased.not_finite() is None
    left_out = [note for note in report.notes if "learned without" in note]
    assert len(left_out) == (name in GUIDANCE or name in CACHES), report.notes
    from concept_erasure.nodes import host

    host.use(testbed.model)
    assert base_hash(testbed) == before


def test_an_easycache_that_would_skip_changes_no_bit_of_an_erasure_and_keeps_nothing() -> None:
    testbed = small_model("SD1.5")
    model = with_node(testbed.model, "nodes_easycache.EasyCacheNode", reuse_threshold=3.0, start_percent=0.0)
    plain, _ = run(testbed, "esd", **TINY)
    cached, report = run(beside(testbed, model), "esd", **TINY)
    for name, value in plain.tensors.items():
        assert torch.equal(cached.tensors[name], value), name
    assert "learned without the MODEL's easycache" in report.text()
    holder = model.model_options["transformer_options"]["easycache"]
    assert not holder.uuid_cache_diffs and holder.x_prev_subsampled is None
    assert any("easycache" in by_key for by_key in model.wrappers.values()), "the user's MODEL keeps it"


def test_a_wrapper_that_answers_from_a_cache_of_its_own_is_refused() -> None:
    """As caches do that put themselves around the model's function, without a name to know them by."""
    testbed = small_model("SD1.5")
    kept: dict[str, Tensor] = {}

    def wrapper(apply_model, given):
        if "answer" not in kept or kept["answer"].shape != given["input"].shape:
            kept["answer"] = apply_model(given["input"], given["timestep"], **given["c"])
        return kept["answer"].detach()

    model = testbed.model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    before = base_hash(testbed)
    with pytest.raises(RuntimeError, match=r"answered in place of its network.*before that node"):
        run(beside(testbed, model), "esd", **TINY)
    assert base_hash(testbed) == before


def test_a_wrapper_around_the_models_function_is_given_what_comfyuis_sampler_gives() -> None:
    testbed = small_model("SD1.5")
    given: list[dict[str, Any]] = []

    def wrapper(apply_model, asked):
        given.append(asked)
        return apply_model(asked["input"], asked["timestep"], **asked["c"])

    model = testbed.model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    changed = beside(testbed, model)
    latents, sigma, denoised = asked_by_the_sampler(changed)
    theirs = given[0]
    given.clear()
    assert torch.equal(asked_by_us(changed, latents, sigma), denoised)
    ours = given[0]
    assert set(ours) == set(theirs) and set(ours["c"]) == set(theirs["c"])
    options = [call["c"]["transformer_options"] for call in (ours, theirs)]
    assert set(options[0]) == set(options[1]) and len(options[0]["uuids"]) == len(options[0]["cond_or_uncond"]) == 1
    assert torch.equal(options[0]["sample_sigmas"], options[1]["sample_sigmas"])
    assert torch.equal(options[0]["sigmas"], options[1]["sigmas"])
