"""Vectors in the place of words where a model has two text encoders: SDXL's own, with fewer layers and random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from concept_erasure.erasure_core.red_team.attacked_model import SoftPrompt
from erasure_tests.families import small_model
from safetensors.torch import save_file

from devtools.hosting.inprocess import load_comfy

pytestmark = pytest.mark.usefixtures("as_a_node_runs")
WIDTHS = {"g": 1280, "l": 768}


@pytest.fixture(scope="module")
def clip() -> Any:
    """ComfyUI's CLIP for SDXL; its tables of tokens have their real size."""
    load_comfy()
    import comfy.sd
    from comfy.sdxl_clip import SDXLClipModel, SDXLTokenizer
    from comfy.supported_models_base import ClipTarget

    layers = {f"clip_{key}_model_config": {"num_hidden_layers": 3, "intermediate_size": 64} for key in WIDTHS}
    options = {**layers, "dtype": torch.float32}
    with torch.inference_mode():
        made = comfy.sd.CLIP(ClipTarget(SDXLTokenizer, SDXLClipModel), model_options=options, disable_dynamic=True)
        generator = torch.Generator().manual_seed(0)
        for name, value in made.cond_stage_model.named_parameters():
            if name.endswith("bias") or value.ndim < 2:
                value.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                value.normal_(0, 0.02, generator=generator)
    return made


def test_a_words_vectors_read_as_the_word_and_gradients_reach_those_of_both_encoders(clip) -> None:
    from concept_erasure.nodes.host.session import open_session_as
    from concept_erasure.nodes.host.soft_prompts import SoftComfyDenoiser

    testbed = small_model("SDXL")
    with open_session_as(SoftComfyDenoiser, testbed.model, clip, 64, 64) as denoiser:
        words, table = denoiser.word_vectors()
        assert table.shape == (len(words), sum(WIDTHS.values()))
        vector = table[[words.index("circle")]].clone().requires_grad_(True)
        soft, said = denoiser.encode_soft(SoftPrompt("a red {}", vector)), denoiser.encode(["a red circle"])
        assert set(soft.values) == set(said.values) and "y" in said.values
        for name, value in said.values.items():
            assert torch.allclose(soft.values[name], value, rtol=2**-11, atol=1e-4), name  # text is in half precision
        other = denoiser.encode(["a red square"])
        assert not torch.allclose(other.tokens, said.tokens, atol=1e-2)
        soft.tokens.square().sum().backward()
        for part in vector.grad.split(list(WIDTHS.values()), dim=1):
            assert part.abs().sum() > 0
        with pytest.raises(ValueError, match="too long"):
            denoiser.encode_soft(SoftPrompt("a red {}", table[:90]))


def test_an_embedding_file_holds_vectors_for_each_encoder_and_comfyui_reads_them(clip, monkeypatch, tmp_path) -> None:
    from concept_erasure.nodes import host

    vectors = torch.randn(2, sum(WIDTHS.values()), generator=torch.Generator().manual_seed(1))
    save_file(host.embedding_file(clip, vectors), tmp_path / "found.safetensors")
    for key, part in zip(WIDTHS, vectors.split(list(WIDTHS.values()), dim=1), strict=True):
        monkeypatch.setattr(getattr(clip.tokenizer, f"clip_{key}"), "embedding_directory", [str(tmp_path)])
        (tokens,) = clip.tokenize("a red embedding:found")[key]
        read = [token for token, *_ in tokens if torch.is_tensor(token)]
        assert torch.equal(torch.stack(read), part)


def test_an_encoder_with_words_of_its_own_is_refused() -> None:
    from concept_erasure.nodes.host.soft_prompts import encoders

    class Sd3:
        """Tokens as SD3 has them."""

        cond_stage_model = torch.nn.ModuleDict()

        def tokenize(self, _prompt: str) -> dict[str, list]:
            return {"l": [[]], "g": [[]], "t5xxl": [[]]}

    with pytest.raises(ValueError, match="l, g, t5xxl, and vectors in place of words are only supported where"):
        encoders(Sd3())
