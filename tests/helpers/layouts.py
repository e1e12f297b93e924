"""The layout of every family's network, as small as ComfyUI's own detection lets it be, and what is to be found in it."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from typing import Any

UNET = "comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel"


@dataclass(frozen=True)
class Layout:
    """A network of one family. Names may hold alternatives in braces, see `expanded`."""

    family: str
    network: str
    config: dict[str, Any]
    width: int
    kv: tuple[str, ...]
    """The layers of `cross_attention_kv`; with `text` the others of `cross_attention`."""
    text: tuple[str, ...] = ()
    picture: tuple[str, ...] = ()
    """The layers of `self_attention`."""
    fixed: tuple[str, ...] = ()
    """The layers that no group has but `pooled`."""
    pooled: tuple[str, ...] = ()
    tokens: int = 8
    """Text states of a prompt; 0 for as many as it has words, and one more."""
    pooled_width: int = 0
    mask: bool = False
    """Whether the text encoder says which states are of words."""
    markers: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Further entries of the checkpoint, by shape."""
    shown: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes that the detection knows only at full size, and so is shown."""
    smaller: dict[str, Any] = field(default_factory=dict)
    """What the detection always takes to be of full size, and what it is here."""


def expanded(names: tuple[str, ...]) -> set[str]:
    """`a.{0,1}.{k,v}` is a.0.k, a.0.v, a.1.k and a.1.v."""
    found = set()
    for name in names:
        parts = re.split(r"\{(.*?)\}", name)
        choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
        found |= {"".join(chosen) for chosen in itertools.product(*choices)}
    return found


CHANNELS, FULL = 64, 320
"""Of a UNet: the width here and the full one, without which the detection knows none. With half as many channels, one for
each group of the norms, these would take away all that the noise level adds."""


def _unet(family: str, width: int, transformers: str, config: dict[str, Any], **more: Any) -> Layout:
    common = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": CHANNELS, "legacy": False}
    config = {**common, "use_spatial_transformer": True, "context_dim": width, **config}
    block = f"{transformers}.transformer_blocks.{{0}}" if "transformer_blocks" not in transformers else transformers
    return Layout(
        family,
        UNET,
        config,
        width,
        kv=(f"{block}.attn2.to_{{k,v}}",),
        text=(f"{block}.attn2.to_{{q,out.0}}",),
        picture=(f"{block}.attn1.to_{{q,k,v,out.0}}",),
        fixed=("time_embed.{0,2}", "out.2", *more.get("pooled", ())),
        shown={"input_blocks.0.0.weight": (FULL, config["in_channels"], 3, 3)},
        smaller={name: config[name] for name in ("model_channels", "channel_mult")},
        **more,
    )


_PLACES = (
    "{input_blocks.1,input_blocks.3,middle_block,output_blocks.0,output_blocks.1,output_blocks.2,output_blocks.3}.1"
)
_TWO_LEVELS = {
    "channel_mult": [1, 2],
    "num_res_blocks": [1, 1],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
}
_SD15 = _TWO_LEVELS | {"num_heads": 8, "num_head_channels": -1, "use_linear_in_transformer": False}
_SD2 = {"num_heads": -1, "num_head_channels": 64, "use_linear_in_transformer": True}
# its prediction is guessed from the last of twelve decoder blocks
_SD2_V = _SD2 | {
    "channel_mult": [1, 1, 1, 1],
    "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1, 1, 0, 0, 0, 0, 0, 0],
    "transformer_depth_output": [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    "transformer_depth_middle": 1,
}
# the depths of the encoder are what SDXL is recognised by; the rest may be shallow
_SDXL = _SD2 | {
    "channel_mult": [1, 1, 1],
    "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
}
_SDXL_PLACES = (
    "{input_blocks.4.1.transformer_blocks.0,input_blocks.4.1.transformer_blocks.1,input_blocks.5.1.transformer_blocks.0,"
    "input_blocks.5.1.transformer_blocks.1,"
    + ",".join(f"input_blocks.{block}.1.transformer_blocks.{depth}" for block in (7, 8) for depth in range(10))
    + ",middle_block.1.transformer_blocks.0,"
    + ",".join(f"output_blocks.{block}.1.transformer_blocks.0" for block in range(6))
    + "}"
)
_SDXL_MORE: dict[str, Any] = {"tokens": 77, "pooled_width": 1280, "pooled": ("label_emb.0.{0,2}",)}

_FLUX = {
    "axes_dim": [16, 56, 56],
    "num_heads": 1,
    "mlp_ratio": 4.0,
    "theta": 10000,
    "out_channels": 16,
    "in_channels": 16,
    "hidden_size": 128,
    "context_in_dim": 4096,
    "patch_size": 2,
    "vec_in_dim": 768,
    "depth": 2,
    "depth_single_blocks": 2,
    "qkv_bias": True,
    "txt_ids_dims": [],
}


def _flux(family: str, config: dict[str, Any], fixed: tuple[str, ...], width: int = 4096, **more: Any) -> Layout:
    network = more.pop("network", "comfy.ldm.flux.model.Flux")
    return Layout(
        family,
        network,
        {**_FLUX, **config},
        width,
        kv=("double_blocks.{0,1}.txt_attn.qkv",),
        text=("double_blocks.{0,1}.txt_attn.proj",),
        picture=("double_blocks.{0,1}.img_attn.{qkv,proj}",),
        fixed=("final_layer.linear", *fixed, *more.get("pooled", ())),
        **more,
    )


_TIME = ("time_in.{in,out}_layer", "final_layer.adaLN_modulation.1")
_GUIDANCE = "guidance_in.{in,out}_layer"
_VECTOR: dict[str, Any] = {"pooled": ("vector_in.{in,out}_layer",), "pooled_width": 768}
_FLUX2 = {
    "axes_dim": [32, 32, 32, 32],
    "mlp_ratio": 3.0,
    "theta": 2000,
    "out_channels": 128,
    "in_channels": 128,
    "patch_size": 1,
    "global_modulation": True,
    "mlp_silu_act": True,
    "qkv_bias": False,
    "ops_bias": False,
    "default_ref_method": "index",
    "ref_index_scale": 10.0,
    "txt_ids_dims": [3],
    "vec_in_dim": None,
    "guidance_embed": True,
    "context_in_dim": 256,  # for 15,360: each of its prompts has 512 states
}
_CHROMA = {"in_channels": 64, "out_channels": 64, "in_dim": 64, "vec_in_dim": None}
_APPROXIMATOR = {"out_dim": 128, "hidden_dim": 128, "n_layers": 1}


def _wan(family: str, **config: Any) -> Layout:
    return Layout(
        family,
        "comfy.ldm.wan.model.WanModel",
        {"dim": 128, "num_heads": 1, "ffn_dim": 256, "num_layers": 2, "out_dim": 16, "in_dim": 16, **config},
        4096,
        kv=("blocks.{0,1}.cross_attn.{k,v}",),
        text=("blocks.{0,1}.cross_attn.{q,o}",),
        picture=("blocks.{0,1}.self_attn.{q,k,v,o}",),
        fixed=("time_embedding.{0,2}", "time_projection.1", "head.head"),
    )


def _lumina(family: str, full: int, **config: Any) -> Layout:
    common = {"patch_size": 2, "in_channels": 16, "n_layers": 2, "qk_norm": True}
    return Layout(
        family,
        "comfy.ldm.lumina.model.NextDiT",
        {**common, **config},
        config["cap_feat_dim"],
        kv=("context_refiner.{0,1}.attention.qkv",),
        text=("context_refiner.{0,1}.attention.out",),
        picture=("{layers,noise_refiner}.{0,1}.attention.{qkv,out}",),
        fixed=("t_embedder.mlp.{0,2}", "final_layer.linear", "final_layer.adaLN_modulation.1"),
        tokens=0,
        mask=True,
        shown={"cap_embedder.1.weight": (full, config["cap_feat_dim"])},
        smaller={key: config[key] for key in ("dim", "n_heads", "n_kv_heads")},
    )


_COSMOS = {
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "concat_padding_mask": True,
    "crossattn_emb_channels": 1024,
    "pos_emb_cls": "rope3d",
    "use_adaln_lora": True,
    "extra_per_block_abs_pos_emb": False,
}
_COSMOS_SMALL = {"model_channels": 256, "num_blocks": 2, "num_heads": 2, "adaln_lora_dim": 16}


def _cosmos(family: str, network: str, fixed: tuple[str, ...] = (), **more: Any) -> Layout:
    return Layout(
        family,
        network,
        _COSMOS | _COSMOS_SMALL,
        1024,
        kv=("blocks.{0,1}.cross_attn.{k,v}_proj",),
        text=("blocks.{0,1}.cross_attn.{q_proj,output_proj}",),
        picture=("blocks.{0,1}.self_attn.{q_proj,k_proj,v_proj,output_proj}",),
        fixed=("t_embedder.1.linear_{1,2}", "final_layer.linear", "final_layer.adaln_modulation.{1,2}", *fixed),
        shown={"x_embedder.proj.1.weight": (2048, 68)},
        smaller=_COSMOS_SMALL,
        **more,
    )


_ADAPTER = "llm_adapter.blocks.{0,1,2,3,4,5}."
_SD3 = {
    "input_size": None,
    "in_channels": 16,
    "out_channels": 16,
    "depth": 2,
    "patch_size": 2,
    "adm_in_channels": 2048,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}},
    "num_patches": 36,
    "pos_embed_max_size": 6,
}


def _sd3(picture: str, **config: Any) -> Layout:
    return Layout(
        "SD3",
        "comfy.ldm.modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper",
        _SD3 | config,
        4096,
        kv=("joint_blocks.{0,1}.context_block.attn.qkv",),
        text=("joint_blocks.0.context_block.attn.proj",),
        picture=("joint_blocks.{0,1}.x_block.attn.{qkv,proj}", picture) if picture else
        ("joint_blocks.{0,1}.x_block.attn.{qkv,proj}",),
        fixed=("{t,y}_embedder.mlp.{0,2}", "final_layer.linear", "final_layer.adaLN_modulation.1"),
        pooled=("y_embedder.mlp.{0,2}",),
        pooled_width=2048,
    )  # fmt: skip


LAYOUTS = {
    "SD1.5": _unet("SD15", 768, _PLACES, _SD15, tokens=77),
    "SD1.5 inpainting": _unet("SD15", 768, _PLACES, _SD15 | {"in_channels": 9}, tokens=77),
    "SD2 eps": _unet("SD20", 1024, _PLACES, _SD2 | _TWO_LEVELS, tokens=77),
    "SD2 v": _unet(
        "SD20", 1024, "{input_blocks.1,input_blocks.2,middle_block,output_blocks.9,output_blocks.10,output_blocks.11}.1",
        _SD2_V, tokens=77,
    ),
    "SDXL": _unet("SDXL", 2048, _SDXL_PLACES, _SDXL, **_SDXL_MORE),
    "SDXL v": _unet("SDXL", 2048, _SDXL_PLACES, _SDXL, markers={"v_pred": (0,)}, **_SDXL_MORE),
    "SDXL v ztsnr": _unet(
        "SDXL", 2048, _SDXL_PLACES, _SDXL, markers={"v_pred": (0,), "ztsnr": (0,)}, **_SDXL_MORE
    ),
    "SD3": _sd3(""),
    "SD3.5": _sd3("joint_blocks.0.x_block.attn2.{qkv,proj}", qk_norm="rms", x_block_self_attn_layers=[0]),
    "Flux.1 dev": _flux("Flux", {"guidance_embed": True}, (*_TIME, _GUIDANCE), **_VECTOR),
    "Flux.1 Fill": _flux("FluxInpaint", {"guidance_embed": True, "in_channels": 96}, (*_TIME, _GUIDANCE), **_VECTOR),
    "Flux.1 schnell": _flux("FluxSchnell", {"guidance_embed": False}, _TIME, **_VECTOR),
    "Flux.2": _flux(
        "Flux2", _FLUX2, (*_TIME, _GUIDANCE, "double_stream_modulation_{img,txt}.lin", "single_stream_modulation.lin"),
        256, tokens=0,
    ),
    "Chroma": _flux(
        "Chroma", _CHROMA | _APPROXIMATOR,
        ("distilled_guidance_layer.{in_proj,layers.0.in_layer,layers.0.out_layer,out_proj}",),
        network="comfy.ldm.chroma.model.Chroma", smaller=_APPROXIMATOR, tokens=0,
    ),
    "Qwen-Image": Layout(
        "QwenImage",
        "comfy.ldm.qwen_image.model.QwenImageTransformer2DModel",
        {"in_channels": 64, "num_layers": 2, "num_attention_heads": 1},
        3584,
        kv=("transformer_blocks.{0,1}.attn.add_{k,v}_proj",),
        text=("transformer_blocks.{0,1}.attn.{add_q_proj,to_add_out}",),
        picture=("transformer_blocks.{0,1}.attn.to_{q,k,v,out.0}",),
        fixed=("time_text_embed.timestep_embedder.linear_{1,2}", "norm_out.linear", "proj_out"),
        tokens=0,
        smaller={"num_attention_heads": 1},
    ),
    "Lumina 2": _lumina(
        "Lumina2", 2304, dim=192, n_heads=2, n_kv_heads=1, cap_feat_dim=2304, axes_dims=[32, 32, 32],
        axes_lens=[300, 512, 512], ffn_dim_multiplier=4.0,
    ),
    "Z-Image": _lumina(
        "ZImage", 3840, dim=256, n_heads=2, n_kv_heads=2, cap_feat_dim=2560, axes_dims=[32, 48, 48],
        axes_lens=[1536, 512, 512], ffn_dim_multiplier=8 / 3, z_image_modulation=True,
    ),
    "Wan 2.1": _wan("WAN21_T2V"),
    "Wan 2.1 image to video": _wan("WAN21_I2V", model_type="i2v", in_dim=36),
    "Wan 2.2 5B": _wan("WAN22_T2V", in_dim=48, out_dim=48),
    "Cosmos-Predict2": _cosmos("CosmosT2IPredict2", "comfy.ldm.cosmos.predict2.MiniTrainDIT"),
    "Anima": _cosmos(
        "Anima", "comfy.ldm.anima.model.Anima",
        (_ADAPTER + "{self,cross}_attn.{q,k,v,o}_proj", _ADAPTER + "mlp.{0,2}", "llm_adapter.out_proj"), tokens=0,
    ),
    "Ernie-Image": Layout(
        "ErnieImage",
        "comfy.ldm.ernie.model.ErnieImageModel",
        {"hidden_size": 128, "num_attention_heads": 1, "num_layers": 2, "ffn_hidden_size": 256},
        3072,
        kv=(),
        picture=("layers.{0,1}.self_attention.to_{q,k,v,out.0}",),
        fixed=("time_embedding.linear_{1,2}", "adaLN_modulation.1", "final_norm.linear", "final_linear"),
        tokens=0,
        smaller={"hidden_size": 128, "num_attention_heads": 1, "num_layers": 2, "ffn_hidden_size": 256},
    ),
    "JoyImage": Layout(
        "JoyImage",
        "comfy.ldm.joyimage.model.JoyImageTransformer3DModel",
        {"hidden_size": 128, "num_attention_heads": 1, "num_layers": 2},
        4096,
        kv=("double_blocks.{0,1}.attn.txt_attn_qkv",),
        text=("double_blocks.{0,1}.attn.txt_attn_proj",),
        picture=("double_blocks.{0,1}.attn.img_attn_{qkv,proj}",),
        fixed=("condition_embedder.time_embedder.linear_{1,2}", "condition_embedder.time_proj", "proj_out"),
        tokens=0,
    ),
}  # fmt: skip
