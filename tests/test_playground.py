"""The gold model: trained like the playground, in a world without one shape."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from concept_erasure.erasure_core.memory import precision
from safetensors import safe_open
from torch import Tensor

from devtools.hosting import comfyui
from devtools.hosting.inprocess import load_comfy
from playground import build, gold, mmdit, sampling, text_encoder, training, unet, weights
from playground.drawing import SHAPES, SYNONYMS, draw, random_scene
from playground.training import Schedule
from playground.weights import CHECKPOINT
from testbed.files import playground_models
from testbed.idle_layers import skip_idle_layers
from testbed.playground import load_playground


def layout(path: Path) -> dict[str, list[int]]:
    """The shape of each tensor of a file."""
    with safe_open(path, "pt") as file:
        return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118


def test_gold_has_the_layout_of_the_playground_and_never_hears_of_its_shape(tmp_path, monkeypatch) -> None:
    load_comfy()
    said: list[str] = []
    caption = unet.caption
    monkeypatch.setattr(unet, "DRAWINGS", 64)
    monkeypatch.setattr(gold, "SCHEDULE", Schedule(steps=4, batch=16, learning_rate=1e-4))
    monkeypatch.setattr(gold, "gold_checkpoint", lambda without: tmp_path / f"{without}.safetensors")
    monkeypatch.setattr(unet, "caption", lambda *given: said.append(caption(*given)) or said[-1])
    # encoding every caption takes most of the time, and is not what this test is about
    monkeypatch.setattr(
        unet, "encode_captions", lambda captions, _: (torch.zeros(1, 77, 768).expand(len(captions), -1, -1), None)
    )
    path = gold.train_gold(tmp_path, {}, "circle")
    assert layout(path) == layout(playground_models(comfyui.ensure()) / CHECKPOINT)
    words = {word for text in said for word in text.split()}
    assert len(said) == 64 and not words & {"circle", SYNONYMS["circle"]}
    assert len(words & set(SHAPES)) >= 4


def test_the_flow_form_is_what_comfyui_loads_as_sd3(tmp_path) -> None:
    load_comfy()
    import comfy.sd

    path = tmp_path / "flow.safetensors"
    network = {name: value.half() for name, value in mmdit.new_mmdit().state_dict().items()}
    build.build_flow_checkpoint(path, network)
    captions = ["a striped red circle", ""]
    trained_on = text_encoder.text_encoder_weights(text_encoder.tokenizer_ids())
    states, pooled = text_encoder.encode_captions(captions, trained_on, normed=False)
    scene = random_scene(4, torch.Generator().manual_seed(0))
    pictures, learned = draw(scene), unet.encode_drawings(weights.stored_autoencoder(), scene)
    with torch.inference_mode():
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(path))
        latents = model.model.latent_format
        assert type(model.model).__name__ == type(latents).__name__ == "SD3"
        for row, text in enumerate(captions):
            said, more = clip.encode_from_tokens_scheduled(clip.tokenize(text), show_pbar=False)[0]
            width = states.shape[-1]
            torch.testing.assert_close(said[0, :, :width], states[row].float(), atol=0.05, rtol=0.01)
            torch.testing.assert_close(more["pooled_output"][0, :width], pooled[row].float(), atol=0.05, rtol=0.01)
            assert not said[0, :, width:].any() and not more["pooled_output"][0, width:].any()
        seen = latents.process_in(vae.encode(pictures.movedim(1, -1)))
        torch.testing.assert_close(seen[:, : mmdit.USED], learned, atol=0.05, rtol=0.01)
        assert not seen[:, mmdit.USED :].abs().max() > 1e-6
        drawn = vae.decode(latents.process_out(seen)).movedim(-1, 1)
    assert (drawn - pictures).abs().mean() < 0.02


def test_the_velocity_loss_is_zero_for_a_network_that_knows_the_velocity() -> None:
    generator = torch.Generator().manual_seed(0)
    latents = torch.zeros(6, mmdit.LATENTS, 8, 8)

    def knowing(noisy: Tensor, timestep: Tensor, **_: Tensor) -> Tensor:
        """Of latents that are zero, noise is what is there divided by the noise level."""
        return noisy / (timestep / 1000)[:, None, None, None]

    nothing = (torch.zeros(6, 1, 1), torch.zeros(6, 1))
    assert mmdit.velocity_loss(knowing, latents, nothing, generator) < 1e-3
    assert mmdit.velocity_loss(lambda noisy, *_, **__: 0 * noisy, latents, nothing, generator) > 0.5


@pytest.mark.parametrize(
    ("machine", "supported", "native", "expected"),
    [
        ("x86_64", True, True, True),
        ("AMD64", True, False, False),  # imitated: AVX-512 without its bf16 part
        ("x86_64", False, False, False),
        ("aarch64", True, False, True),
    ],
)
def test_a_cpu_that_only_imitates_bfloat16_is_told_apart(machine, supported, native, expected, monkeypatch) -> None:
    monkeypatch.setattr(precision.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    assert precision.cpu_computes_in_bf16() == expected


def test_bfloat16_is_only_used_where_the_cpu_computes_in_it(monkeypatch) -> None:
    for fast in (False, True):
        monkeypatch.setattr(training, "cpu_computes_in_bf16", lambda fast=fast: fast)
        with training.fast_precision():
            assert torch.is_autocast_enabled("cpu") == fast
    assert not torch.is_autocast_enabled("cpu")


def test_what_saves_time_here_changes_no_bit_of_a_text_or_picture(testbed) -> None:
    plain = load_playground()
    assert skip_idle_layers(testbed.clip) == text_encoder.LAYERS - text_encoder.RANDOM_LAYERS
    for prompt in ("", "a striped red circle"):
        assert all(torch.equal(*pair) for pair in zip(plain.encoded(prompt), testbed.encoded(prompt), strict=True))
    # nothing was erased from it yet: its weights are as the loader leaves them, tensors of inference mode
    drawn = plain.draw(plain.model, ["a red circle"], seed=3)
    plainly = sampling.draw(plain.model, plain.vae, plain.conditioning, ["a red circle"], plain.noise(1, 3), 3)
    assert torch.equal(drawn, plainly), "what is cast once changes no bit of a picture"
