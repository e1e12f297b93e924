"""The pack in the real host, in this process and under inference mode, as ComfyUI runs nodes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.erased_unet import ErasedUNet, load_erased_unet, save_erased_unet
from concept_erasure.erasure_core.method import methods
from erasure_tests.runs import QUICK, base_hash, run
from erasure_tests.small import make

from testbed.playground import Playground

pytestmark = pytest.mark.usefixtures("as_a_node_runs", "few_words")


def latents(testbed: Playground, model: object) -> torch.Tensor:
    """What a model samples for two prompts, exactly (no autocast)."""
    import comfy.sample

    text = torch.cat([testbed.text("a red circle"), testbed.text("a solid blue square")])
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    return comfy.sample.sample(
        model, noise, 4, 4.0, "euler", "normal", [[text, {}]], [[testbed.text(""), {}]], torch.zeros_like(noise),
        disable_pbar=True, seed=3,
    )  # fmt: skip


ACT_WHILE_SAMPLING = ("dumo", "saeuron")
"""Methods whose results are never weights alone; `spm` has a setting for it."""


@pytest.mark.parametrize("name", list(methods()))
def test_a_run_edits_only_the_clone(testbed: Playground, name: str, tmp_path: Path) -> None:
    """And what it makes of weights acts the same through the stock LoRA loader."""
    import comfy.sd
    import comfy.utils
    from concept_erasure.nodes import host

    before, pictures = base_hash(testbed), latents(testbed, testbed.model)
    erased, report = run(testbed, name, learning_rate=0.01, gate=False)
    assert base_hash(testbed) == before and torch.equal(latents(testbed, testbed.model), pictures)
    assert not erased.is_zero() and report.costs["peak_memory_over_the_loaded_model_in_MB"] > 0
    ours = latents(testbed, host.patched(testbed.model, erased, 1.0))
    assert not torch.equal(ours, pictures), "the edit changes nothing"
    assert (erased.provenance.kind == "weights") == (name not in ACT_WHILE_SAMPLING)
    if name not in ACT_WHILE_SAMPLING:
        save_erased_unet(erased, tmp_path / "edit.safetensors")
        lora = comfy.utils.load_torch_file(str(tmp_path / "edit.safetensors"))
        stock, _ = comfy.sd.load_lora_for_models(testbed.model, None, lora, 1.0, 0)
        assert (latents(testbed, stock) - ours).abs().max() < 1e-3 < (ours - pictures).abs().max()
    assert torch.equal(latents(testbed, testbed.model), pictures), "the patched clone leaks into the base model"
    assert base_hash(testbed) == before


def test_a_cancelled_run_leaves_the_base_as_it_was(testbed: Playground, monkeypatch) -> None:
    import comfy.model_management
    from concept_erasure.nodes import host

    before, seen = base_hash(testbed), []

    def send(text: str, _node: object) -> None:
        seen.append(text)
        comfy.model_management.interrupt_current_processing(True)

    monkeypatch.setattr(host, "send_text", send)
    try:
        with pytest.raises(host.Cancelled):
            run(testbed, steps=50)
    finally:
        comfy.model_management.interrupt_current_processing(False)
    assert len(seen) < 3, "the run went on after the cancel"
    assert base_hash(testbed) == before and not comfy.model_management.in_training
    assert not any(module._forward_hooks for module in testbed.model.model.modules())


def test_the_node_shows_what_it_is_at_from_the_start(testbed: Playground, monkeypatch) -> None:
    from concept_erasure.erasure_core import report
    from concept_erasure.nodes import host
    from concept_erasure.nodes.erase import erase

    shown: list[str] = []
    monkeypatch.setattr(report, "TEXT_EVERY", 0.0)
    monkeypatch.setattr(host, "send_text", lambda text, node: shown.append(f"{node}: {text.split(', about')[0]}"))
    erase(testbed.model, testbed.clip, parse_request("circle"), make("ap", **QUICK), 64, 64, node_id="7")
    assert shown[0] == "7: loading the model" and "7: sampling step 1 of 3, 3 at once" in shown
    assert any(text.startswith("7: memory: about ") or text == "7: memory:" for text in shown)
    assert shown[-1].startswith("7: optimiser step 3 of 3")
    assert "7: encoding words, 0 of 7" in shown


def test_saved_and_loaded_and_the_stock_lora_loader_agree(testbed: Playground, tmp_path: Path) -> None:
    import comfy.sd
    import comfy.utils
    from concept_erasure.nodes import host
    from concept_erasure.nodes.erased_unet import apply

    erased, _ = run(testbed, learning_rate=0.01)
    ours = latents(testbed, host.patched(testbed.model, erased, 1.0))
    save_erased_unet(erased, tmp_path / "edit.safetensors")
    assert torch.equal(
        latents(testbed, apply(testbed.model, load_erased_unet(tmp_path / "edit.safetensors"), 1.0)), ours
    )
    lora = comfy.utils.load_torch_file(str(tmp_path / "edit.safetensors"))
    stock, _ = comfy.sd.load_lora_for_models(testbed.model, None, lora, 1.0, 0)
    assert (latents(testbed, stock) - ours).abs().max() < 1e-3
    assert (latents(testbed, testbed.model) - ours).abs().max() > 1e-2, "the comparison could not have failed"


def test_strength_zero_and_a_zero_edit_are_bit_identical(testbed: Playground) -> None:
    from concept_erasure.nodes.erased_unet import apply

    base = latents(testbed, testbed.model)
    erased, _ = run(testbed)
    assert torch.equal(latents(testbed, apply(testbed.model, erased, 0.0)), base)
    zero = {key: torch.zeros_like(value) if "lora_up" in key else value for key, value in erased.tensors.items()}
    assert torch.equal(latents(testbed, apply(testbed.model, ErasedUNet(zero, erased.provenance), 1.0)), base)


def test_an_edit_for_another_family_or_layer_is_refused(testbed: Playground, caplog) -> None:
    from concept_erasure.nodes import host
    from concept_erasure.nodes.erased_unet import apply

    erased, _ = run(testbed)
    other = dataclasses.replace(erased.provenance, family="SDXL")
    with pytest.raises(ValueError, match="made for SDXL models, the MODEL is SD15"):
        apply(testbed.model, ErasedUNet(erased.tensors, other), 1.0)
    elsewhere = {key.replace("input_blocks.1.1", "input_blocks.4.1"): value for key, value in erased.tensors.items()}
    with pytest.raises(ValueError, match="edits 6 layers, but only 4"):
        host.patched(testbed.model, dataclasses.replace(erased, tensors=elsewhere), 1.0)
    layer = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k"
    bad_pair = {f"{layer}.lora_up.weight": torch.ones(7, 2), f"{layer}.lora_down.weight": torch.ones(2, 768)}
    for bad in (bad_pair, {f"{layer}.diff": torch.ones(320, 7)}, {f"{layer}.diff_b": torch.ones(320)}):
        with pytest.raises(ValueError, match=r"does not fit the layer '.*attn2\.to_k' of this SD15 MODEL"):
            host.patched(testbed.model, dataclasses.replace(erased, tensors=bad), 1.0)
    whole = {f"{layer}.diff": torch.ones(320, 768)}
    assert len(host.patched(testbed.model, dataclasses.replace(erased, tensors=whole), 1.0).patches) == 1
    apply(testbed.model, ErasedUNet(erased.tensors, dataclasses.replace(erased.provenance, fingerprint="x")), 1.0)
    assert "another checkpoint" in caplog.text


def test_a_lora_on_the_model_is_part_of_what_is_erased_from(testbed: Playground) -> None:
    from concept_erasure.nodes import host

    lora, _ = run(testbed, learning_rate=0.01)
    with_lora = host.patched(testbed.model, lora, 1.0)
    with host.open_session(with_lora, testbed.clip, 64, 64) as changed:
        text = changed.encode(["circle"])
        noisy, sigma = torch.ones(1, 4, 8, 8), torch.tensor([2.0])
        with torch.no_grad():
            one = changed.predict(noisy, sigma, text)
        assert changed.fingerprint == lora.provenance.fingerprint, "the fingerprint is that of the base weights"
    with host.open_session(testbed.model, testbed.clip, 64, 64) as plain, torch.no_grad():
        assert not torch.allclose(one, plain.predict(noisy, sigma, text))


def test_no_sentence_about_a_target_says_its_synonym(testbed: Playground) -> None:
    from concept_erasure.erasure_core.text.synonyms import template_words_like
    from concept_erasure.nodes import host

    with host.open_session(testbed.model, testbed.clip, 64, 64) as denoiser:
        assert template_words_like(denoiser, ["square"]) == {"square", "box"}
        assert template_words_like(denoiser, ["red", "circle"]) == {"red", "circle"}, (
            "ring is a look-alike, not a synonym"
        )


def test_the_denoiser_gives_the_hosts_own_predictions(testbed: Playground) -> None:
    """One sampling run by our Euler steps lands where ComfyUI's own euler sampler lands."""
    import comfy.sample
    from concept_erasure.erasure_core.training.trajectory import sample_trajectories
    from concept_erasure.nodes import host

    with host.open_session(testbed.model, testbed.clip, 64, 64) as denoiser:
        denoiser._precision = lambda: torch.autocast("cpu", enabled=False)
        generator = torch.Generator().manual_seed(1)
        _, ours = sample_trajectories(denoiser, denoiser.encode(["a red circle"]), 6, 4.0, generator)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    theirs = comfy.sample.sample(
        testbed.model, noise, 6, 4.0, "euler", "normal", [[testbed.text("a red circle"), {}]], [[testbed.text(""), {}]],
        torch.zeros_like(noise), disable_pbar=True, seed=1,
    )  # fmt: skip
    theirs = testbed.model.model.process_latent_in(theirs)
    # ComfyUI starts from sqrt(1 + sigma^2) times the noise, we from sigma: a difference of 0.2 % at the largest sigma
    assert (ours - theirs).abs().max() < 0.05 * theirs.abs().max()


def test_prompts_that_are_encoded_together_are_what_the_clip_says_of_each_alone(
    testbed: Playground, monkeypatch
) -> None:
    from concept_erasure.nodes import host

    prompts = ["a red circle", "", "a (striped:1.3) square", "a box " * 50, "a star"]
    made, encode = [], testbed.clip.encode_from_tokens_scheduled
    alone = [encode(testbed.clip.tokenize(prompt), show_pbar=False)[0] for prompt in prompts]

    def watched(tokens: dict, **options: bool) -> list:
        made.append(len(tokens["l"]))
        return encode(tokens, **options)

    monkeypatch.setenv("CONCEPT_ERASURE_TEXT_CACHE", "off")
    monkeypatch.setattr(testbed.clip, "encode_from_tokens_scheduled", watched)
    with host.open_session(testbed.model, testbed.clip, 64, 64) as denoiser:
        made.clear()
        tokens, together = [testbed.clip.tokenize(prompt) for prompt in prompts], {}
        for places in host.text.passes(tokens):
            together |= zip(places, denoiser.text_encoder([tokens[i] for i in places]), strict=True)
    for place, (expected, _) in enumerate(alone):
        assert torch.equal(together[place][0], host.text.rounded(expected))
    assert sorted(made) == [2, 4], "the long prompt has two sections and is a pass of its own"


def test_token_vectors_are_rows_of_the_text_encoders_table(testbed: Playground) -> None:
    from concept_erasure.nodes import host

    with host.open_session(testbed.model, testbed.clip, 64, 64) as denoiser:
        before = denoiser.text_encoder.encoded
        circle, red, both = denoiser.token_vectors(["circle", "red", "red circle"])
        assert denoiser.text_encoder.encoded == before, "no run of the text encoder"
    token = testbed.clip.tokenize("circle")["l"][0][1][0]
    table = testbed.clip.cond_stage_model.clip_l.transformer.get_input_embeddings().weight
    assert torch.equal(circle, table[token].float().cpu())
    assert torch.allclose(both, (red + circle) / 2)
    assert not torch.equal(red, circle)


def test_the_global_random_numbers_are_left_alone(testbed: Playground) -> None:
    torch.manual_seed(11)
    expected = torch.rand(2)
    torch.manual_seed(11)
    run(testbed)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("on_the_book", [False, True])
def test_the_demo_scores_what_was_saved(testbed: Playground, tmp_path: Path, on_the_book: bool) -> None:
    from erasure_tests.server import models

    from testbed import demo, files

    edit = files.BOOK_EDIT_WEIGHTS if on_the_book else tmp_path / "edit.safetensors"
    if not on_the_book:
        save_erased_unet(run(testbed)[0], edit)
    table = demo.scores(models(), edit, on_the_book, n=2)
    asked = ["ESR-1", "PSR-1", *(["PSR-1"] if on_the_book else [])]
    assert [name.split(":")[0] for name in table] == asked and all("n = 2" in text for text in table.values())
