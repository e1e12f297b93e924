"""Every model family that the pack knows, in one table: the rest of the code knows none.

A family goes by the name of its class in ComfyUI's `supported_models`. Layer names are regular expressions for whole
names below `diffusion_model.`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

NEEDS = {
    "gradients": "gradients through the network",
    "text_states": "keys and values that read the text encoder's own states and nothing else",
    "attention_maps": "cross-attention maps from layers named to_q and to_k",
    "unet_blocks": "the encoder, decoder and transformer blocks of a UNet",
}
"""The needs of a kind of method (`method.ErasureMethod.needs`)."""

JOINT = (
    "text and picture attend to each other in one attention, so that after the first block its keys and values read states "
    "that have mixed with the picture: no edit that is fitted on the text alone is right there"
)
NO_UNET = "it is a transformer without the encoder, decoder and skips of a UNet"
NO_MAPS = "its attention has no maps of the text under the names that the method reads"
FUSED = "a fused rotary kernel of this ComfyUI has no backward pass"

EPS, V, FLOW, COSMOS = "noise (eps)", "velocity (v)", "flow velocity", "rectified flow in the noise of eps models"


@dataclass(frozen=True)
class Family:
    """All that is known of one family."""

    title: str
    """The name that its users know."""
    predicts: str
    """The network's own kind of prediction; `Denoiser.predict` converts it."""
    groups: Mapping[str, str]
    """Layer group -> the layers in it; a group that is missing here does not exist in the family."""
    text_in: str
    """The layers that read the text encoder's states, whose width they show."""
    fused: str = ""
    """Layers with queries, keys and values in one matrix, in this order: of these, `cross_attention_kv` is rows."""
    reads: str = ""
    """The module between the text encoder's states and the keys and values, or "" if these read the states themselves."""
    tokens_of: str = ""
    """The tokenizer whose tokens the text states are of, where a CLIP has several and it is not the first."""
    guidance_in: str = ""
    """A layer that only models with built-in guidance have: they are sampled at guidance scale 1."""
    few_steps: int = 0
    """The number of sampling steps that the family was distilled to, at guidance scale 1; 0 for none."""
    lacks: Mapping[str, str] = field(default_factory=dict)
    """The `NEEDS` that it does not have, and why."""
    may_lack: Mapping[str, str] = field(default_factory=dict)
    """The needs that depend on the version of ComfyUI: they are tried before a run."""
    is_unet: bool = False
    blocks: str = r"\w*(blocks|layers|refiner)\.\d+"
    """The modules that gradient checkpointing computes again; of two that contain each other, the inner one."""
    in_place: bool = False
    """Whether its blocks change, after a norm has read it, what that norm needs again for its gradient."""


_OF_TRANSFORMERS = {"attention_maps": NO_MAPS, "unet_blocks": NO_UNET}
_OF_JOINT_ATTENTION = {"text_states": JOINT, **_OF_TRANSFORMERS}


def _rest(fixed: str, text: str) -> dict[str, str]:
    """The two groups that are defined by what they leave out: time embedding and output, and the attention to text."""
    not_fixed = rf"(?!({fixed})(\.|$))"
    return {"non_cross_attention": rf"{not_fixed}(?!{text}$).*", "all": rf"{not_fixed}.*"}


def _unet(title: str, predicts: str, pooled: bool = False) -> Family:
    kv = r".*\.attn2\.to_[kv]"
    groups = {
        "cross_attention_kv": kv,
        "cross_attention": r".*\.attn2\.(to_[qkv]|to_out\.0)",
        "self_attention": r".*\.attn1\.(to_[qkv]|to_out\.0)",
        **_rest("time_embed|label_emb|out", r".*\.attn2\.(to_[qkv]|to_out\.0)"),
    }
    if pooled:
        groups["cross_attention_kv_pooled"] = rf"{kv}|label_emb\.0\.[02]"
    # the parts of a UNet's blocks, because ComfyUI calls these and not the block
    parts = r"(input_blocks\.\d+|middle_block|output_blocks\.\d+)\.\d+(\.transformer_blocks\.\d+)?"
    return Family(title, predicts, groups, text_in=r".*\.attn2\.to_k", is_unet=True, blocks=parts)


def _flux(title: str, fixed: str, pooled: bool = False, few_steps: int = 0) -> Family:
    text, picture = (rf"double_blocks\.\d+\.{side}_attn\.(qkv|proj)" for side in ("txt", "img"))
    kv = r"double_blocks\.\d+\.txt_attn\.qkv"
    groups = {
        "cross_attention_kv": kv,
        "cross_attention": text,
        "self_attention": picture,
        **_rest(fixed, text),
    }
    if pooled:  # the vector of the pooled text enters beside the time embedding
        groups["cross_attention_kv_pooled"] = rf"{kv}|vector_in\.(in|out)_layer"

    return Family(
        title,
        FLOW,
        groups,
        text_in="txt_in",
        fused=r".*\.qkv",
        guidance_in="guidance_in.in_layer",
        few_steps=few_steps,
        in_place=True,
        lacks=_OF_JOINT_ATTENTION,
    )


def _stable_diffusion_3() -> Family:
    text, kv = r"joint_blocks\.\d+\.context_block\.attn\.(qkv|proj)", r"joint_blocks\.\d+\.context_block\.attn\.qkv"
    return Family(
        "SD3, SD3.5",
        FLOW,
        {
            "cross_attention_kv": kv,
            "cross_attention": text,
            "self_attention": r"joint_blocks\.\d+\.x_block\.attn2?\.(qkv|proj)",
            **_rest("t_embedder|y_embedder|final_layer", text),
            "cross_attention_kv_pooled": rf"{kv}|y_embedder\.mlp\.[02]",
        },
        text_in="context_embedder",
        fused=r".*\.qkv",
        lacks=_OF_JOINT_ATTENTION,
    )


def _qwen_image() -> Family:
    text = r"transformer_blocks\.\d+\.attn\.(add_[qkv]_proj|to_add_out)"
    return Family(
        "Qwen-Image",
        FLOW,
        {
            "cross_attention_kv": r"transformer_blocks\.\d+\.attn\.add_[kv]_proj",
            "cross_attention": text,
            "self_attention": r"transformer_blocks\.\d+\.attn\.(to_[qkv]|to_out\.0)",
            **_rest("time_text_embed|norm_out|proj_out", text),
        },
        text_in="txt_in",
        lacks=_OF_JOINT_ATTENTION,
    )


def _lumina(title: str) -> Family:
    # its main layers read text and picture with the same matrices; only the context refiner reads the text alone
    text = r"context_refiner\.\d+\.attention\.(qkv|out)"
    return Family(
        title,
        FLOW,
        {
            "cross_attention_kv": r"context_refiner\.\d+\.attention\.qkv",
            "cross_attention": text,
            "self_attention": r"(layers|noise_refiner)\.\d+\.attention\.(qkv|out)",
            **_rest("t_embedder|final_layer", text),
        },
        text_in=r"cap_embedder\.1",
        fused=r".*\.qkv",
        lacks=_OF_JOINT_ATTENTION,
    )


def _wan(title: str) -> Family:
    text = r"blocks\.\d+\.cross_attn\.[qkvo]"
    return Family(
        title,
        FLOW,
        {
            "cross_attention_kv": r"blocks\.\d+\.cross_attn\.[kv]",
            "cross_attention": text,
            "self_attention": r"blocks\.\d+\.self_attn\.[qkvo]",
            **_rest("time_embedding|time_projection|head", text),
        },
        text_in=r"text_embedding\.0",
        reads="text_embedding",
        lacks=_OF_TRANSFORMERS,
    )


def _cosmos(title: str, predicts: str, tokens_of: str = "") -> Family:
    text = r"blocks\.\d+\.cross_attn\.([qkv]_proj|output_proj)"
    return Family(
        title,
        predicts,
        {
            "cross_attention_kv": r"blocks\.\d+\.cross_attn\.[kv]_proj",
            "cross_attention": text,
            "self_attention": r"blocks\.\d+\.self_attn\.([qkv]_proj|output_proj)",
            **_rest("t_embedder|final_layer|llm_adapter", text),
        },
        text_in=r"blocks\.\d+\.cross_attn\.k_proj",
        tokens_of=tokens_of,
        lacks=_OF_TRANSFORMERS,
        may_lack={"gradients": FUSED},
    )


def _ernie() -> Family:
    # one stream: the same matrices read text and picture
    attention = r"layers\.\d+\.self_attention\.(to_[qkv]|to_out\.0)"
    return Family(
        "Ernie-Image",
        FLOW,
        {"self_attention": attention, **_rest("time_embedding|adaLN_modulation|final_norm|final_linear", "$")},
        text_in="text_proj",
        lacks=_OF_JOINT_ATTENTION,
        may_lack={"gradients": FUSED},
    )


def _joy_image() -> Family:
    text = r"double_blocks\.\d+\.attn\.txt_attn_(qkv|proj)"
    return Family(
        "JoyImage",
        FLOW,
        {
            "cross_attention_kv": r"double_blocks\.\d+\.attn\.txt_attn_qkv",
            "cross_attention": text,
            "self_attention": r"double_blocks\.\d+\.attn\.img_attn_(qkv|proj)",
            **_rest(r"condition_embedder\.time_(embedder|proj)|proj_out", text),
        },
        text_in=r"condition_embedder\.text_embedder\.linear_1",
        fused=r".*_qkv",
        lacks=_OF_JOINT_ATTENTION,
        may_lack={"gradients": FUSED},
    )


_FLUX, _FLUX2 = "time_in|vector_in|guidance_in|final_layer", "time_in|guidance_in|final_layer|(double|single)_stream_.*"
FAMILIES: dict[str, Family] = {
    "SD15": _unet("SD1.5", EPS),
    "SD20": _unet("SD2.x", f"{EPS} or {V}"),
    "SD21UnclipL": _unet("SD2.1 unCLIP-L", V),
    "SDXL": _unet("SDXL", f"{EPS} or {V}", pooled=True),
    "SD3": _stable_diffusion_3(),
    "Flux": _flux("Flux.1 dev", _FLUX, pooled=True),
    "FluxInpaint": _flux("Flux.1 Fill", _FLUX, pooled=True),
    "FluxSchnell": _flux("Flux.1 schnell", _FLUX, pooled=True, few_steps=4),
    "Flux2": _flux("Flux.2", _FLUX2),
    "Chroma": _flux("Chroma", "distilled_guidance_layer|final_layer"),
    "QwenImage": _qwen_image(),
    "Lumina2": _lumina("Lumina 2"),
    "ZImage": _lumina("Z-Image"),
    "WAN21_T2V": _wan("Wan 2.1 and 2.2 14B, text to video"),
    "WAN22_T2V": _wan("Wan 2.2 5B"),
    "WAN21_I2V": _wan("Wan 2.1 and 2.2 14B, image to video"),
    "CosmosT2IPredict2": _cosmos("Cosmos-Predict2", COSMOS),
    "Anima": _cosmos("Anima", FLOW, tokens_of="t5xxl"),
    "ErnieImage": _ernie(),
    "JoyImage": _joy_image(),
}


def family_named(name: str) -> Family:
    """The table's row. Raises ValueError, naming what there is, for a family that is not in it."""
    if name not in FAMILIES:
        raise ValueError(
            f"models of family {name!r} are not supported yet; supported are {', '.join(FAMILIES)}. "
            f"Load a checkpoint of one of these"
        )
    return FAMILIES[name]


def reads_text_alone(name: str) -> bool:
    """Whether keys and values of the family of that name read the text encoder's states and nothing else."""
    return name in FAMILIES and "text_states" not in FAMILIES[name].lacks
