"""The playground's CLIP-L text encoder: never trained, rebuilt from a seed, so that the repository carries none of it.

Two of its twelve layers are random, ten pass their input through. Words that mean nearly the same lie near each other,
as they do in the real CLIP: a synonym is close to its shape, a look-alike is somewhat close. Without that no edit of one
word could reach its synonym, and the playground would be harder than any real model in just this respect.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .drawing import LOOK_ALIKES, SHAPES, SYNONYMS

WIDTH, HIDDEN, VOCABULARY, POSITIONS, LAYERS = 768, 3072, 49408, 77, 12
RANDOM_LAYERS = 2
END = 49407
"""The token that ends and fills every text."""
CONFIG = {
    "num_hidden_layers": RANDOM_LAYERS,
    "hidden_size": WIDTH,
    "num_attention_heads": 12,
    "intermediate_size": HIDDEN,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": POSITIONS,
    "eos_token_id": END,
}
"""What ComfyUI's text model is made with: only the layers that do something."""
SYNONYM_WEIGHT = 0.93  # cosine between the embeddings of a shape and its synonym
LOOK_ALIKE_WEIGHT = 0.25  # mutual look-alikes end up at a cosine of about 0.47


def _near_each_other(embeddings: Tensor, token_of: dict[str, int]) -> None:
    """Move the embeddings of synonyms and look-alikes towards each other, in place, keeping their length."""

    def unit(vector: Tensor) -> Tensor:
        return vector / vector.norm()

    own = {name: unit(embeddings[token_of[name]].clone()) for name in SHAPES}
    length = embeddings[token_of[SHAPES[0]]].norm()
    for name in SHAPES:
        mixed = own[name] + LOOK_ALIKE_WEIGHT * sum(own[other] for other in LOOK_ALIKES[name])
        embeddings[token_of[name]] = length * unit(mixed)
    for name, synonym in SYNONYMS.items():
        rest = (1 - SYNONYM_WEIGHT**2) ** 0.5
        mixed = SYNONYM_WEIGHT * unit(embeddings[token_of[name]]) + rest * unit(embeddings[token_of[synonym]])
        embeddings[token_of[synonym]] = length * unit(mixed)


def text_encoder_weights(token_of: dict[str, int], seed: int = 20240) -> dict[str, Tensor]:
    """Weights named as in a Stable Diffusion 1.5 checkpoint below `cond_stage_model.transformer.text_model.`, fp16.

    `token_of` maps each shape and synonym to its token id. numpy's legacy generator is used because its stream is
    promised never to change, so every machine rebuilds the same encoder.
    """
    stream = np.random.RandomState(seed)

    def normal(*shape: int, scale: float) -> Tensor:
        return torch.from_numpy(stream.standard_normal(shape).astype(np.float32)) * scale

    weights = {"embeddings.token_embedding.weight": normal(VOCABULARY, WIDTH, scale=1.0)}
    _near_each_other(weights["embeddings.token_embedding.weight"], token_of)
    weights["embeddings.position_embedding.weight"] = normal(POSITIONS, WIDTH, scale=0.15)
    for layer in range(LAYERS):
        prefix = f"encoder.layers.{layer}."
        active = layer < RANDOM_LAYERS
        for norm in ("layer_norm1", "layer_norm2"):
            weights[f"{prefix}{norm}.weight"] = torch.ones(WIDTH)
            weights[f"{prefix}{norm}.bias"] = torch.zeros(WIDTH)
        shapes = {f"self_attn.{name}_proj": (WIDTH, WIDTH) for name in "qkv"}
        shapes |= {"self_attn.out_proj": (WIDTH, WIDTH), "mlp.fc1": (HIDDEN, WIDTH), "mlp.fc2": (WIDTH, HIDDEN)}
        for name, shape in shapes.items():
            scale = shape[1] ** -0.5
            # the mixed-in context stays weaker than a token's own meaning
            scale *= {"self_attn.out_proj": 0.9, "mlp.fc2": 0.4}.get(name, 1.0)
            weights[f"{prefix}{name}.weight"] = normal(*shape, scale=scale) if active else torch.zeros(shape)
            weights[f"{prefix}{name}.bias"] = torch.zeros(shape[0])
    weights["final_layer_norm.weight"] = torch.ones(WIDTH)
    weights["final_layer_norm.bias"] = torch.zeros(WIDTH)
    return {name: value.half() for name, value in weights.items()}


def tokenizer_ids() -> dict[str, int]:
    """Token id of each shape and synonym in ComfyUI's own CLIP-L tokenizer."""
    from comfy.sd1_clip import SDTokenizer

    tokenizer = SDTokenizer()
    ids = {}
    for word in (*SHAPES, *SYNONYMS.values()):
        tokens = [token for token, _ in tokenizer.tokenize_with_weights(word)[0]]
        if tokens[2] != END:
            raise ValueError(f"{word!r} is more than one CLIP token; the playground needs whole words")
        ids[word] = tokens[1]
    return ids


def encode_captions(
    captions: list[str], weights: dict[str, Tensor], *, normed: bool = True, batch: int = 64
) -> tuple[Tensor, Tensor]:
    """Hidden states (n, 77, 768), before the last norm as SD3 reads them unless `normed`, and pooled text (n, 768), in bf16.

    Equal to what the full encoder gives: the identity layers are left out.
    """
    import comfy.ops
    from comfy.clip_model import CLIPTextModel
    from comfy.sd1_clip import SDTokenizer

    model = CLIPTextModel(CONFIG, torch.float32, "cpu", comfy.ops.disable_weight_init)
    wanted = {f"text_model.{name}": value.float() for name, value in weights.items()}
    model.load_state_dict({k: v for k, v in wanted.items() if k in model.state_dict()}, strict=False)
    tokenizer = SDTokenizer()
    ids = torch.tensor([[token for token, _ in tokenizer.tokenize_with_weights(text)[0]] for text in captions])
    states, pooled = [], []
    last = {"intermediate_output": RANDOM_LAYERS - 1, "final_layer_norm_intermediate": False}
    with torch.no_grad():
        for rows in ids.split(batch):
            with_norm, without, whole = model.text_model(rows, **last)
            states.append((with_norm if normed else without).bfloat16())
            pooled.append(whole.bfloat16())
    return torch.cat(states), torch.cat(pooled)
