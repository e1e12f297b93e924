"""Small random judges in transformers format."""

from __future__ import annotations

import json
from pathlib import Path

import torch


def write_classifier(folder: Path, labels: list[str], size: int = 32) -> None:
    """A random image classifier with these labels."""
    from transformers import ResNetConfig, ResNetForImageClassification

    names = dict(enumerate(labels))
    shape = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}
    config = ResNetConfig(**shape, id2label=names, label2id={label: index for index, label in names.items()})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        ResNetForImageClassification(config).save_pretrained(folder)
    processor = {
        "image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": size}, "crop_pct": 1.0,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")


def write_clip(folder: Path) -> None:
    """A random CLIP with a vocabulary of a few letters."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    text = {**small, "vocab_size": len(tokens), "max_position_embeddings": 32, "bos_token_id": 0, "eos_token_id": 1}
    config = CLIPConfig(text_config=text, vision_config={**small, "image_size": 32, "patch_size": 16}, projection_dim=8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessor(**sizes).save_pretrained(folder)


def write_siglip(folder: Path) -> None:
    """A random SigLIP that knows a few words, its tokenizer under the class that published folders name."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    folder.mkdir(parents=True)
    words = ["<pad>", "</s>", "<unk>", "a", "photo", "of", "cat", "dog", "cow"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    said = {"tokenizer_class": "SiglipTokenizer", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said), encoding="utf-8")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(words), "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 1}
    config = SiglipConfig(text_config=text, vision_config={**small, "image_size": 32, "patch_size": 16})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        SiglipModel(config).save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
