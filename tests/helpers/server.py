"""A real ComfyUI server with the models of both small worlds, for the tests that go through it."""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from devtools import make_workflows
from devtools.hosting import comfyui
from devtools.serving import server
from testbed import files

WEIGHTS = comfyui.PACK / "playground" / "weights" / "unet.safetensors"
QUICK = {
    "steps": 4,
    "training_dtype": "fp32",  # not every CPU computes in bf16; those that imitate it take minutes for a step
    "pictures_per_prompt": 1,
    "method.steps": 8,
    "method.trajectories": 2,
    "method.retain_trajectories": 1,
    "method.sampling_steps": 8,
    "method.candidates": 12,
    "method.vocabulary": "shapes_and_colours",
    "method.scale_steps": 4,
    "method.sentences": 2,
    "method.kept_sentences": 0,
    "candidates": "lion\ntiger\nleopard\ndog\nviolin\nhouse",
    "prompts": "a red circle\na blue square",
    "attempts": 2,
    "attacks": "completion\nimg2img",
    "attack.steps": 2,
    "attack.pictures": 2,
}
"""Inputs that make sampling, an erasure or a search short; what it then erases is not looked at."""


def models() -> Path:
    """The models folder of both worlds; skips the test where the repository lacks the playground's trained weights."""
    if not WEIGHTS.is_file():
        pytest.skip(f"{WEIGHTS.relative_to(comfyui.PACK)} is not there: train the playground with `make playground`")
    return files.all_models(comfyui.locate())


def latents_id(node: str) -> str:
    """The node that `with_latents` puts behind a sampler."""
    return f"latents_{node}"


def with_latents(prompt: dict) -> dict:
    """A copy of an API prompt that also saves what every KSampler gives, before any rounding to pictures."""
    prompt = copy.deepcopy(prompt)
    for node in [node for node, entry in prompt.items() if entry["class_type"] == "KSampler"]:
        inputs = {"samples": [node, 0], "filename_prefix": f"latents/{node.replace(':', '_')}"}
        prompt[latents_id(node)] = {"class_type": "SaveLatent", "inputs": inputs}
    return prompt


@dataclass(frozen=True)
class Finished:
    """A prompt that ran: what was posted and what the server says of it."""

    running: server.Server
    prompt: dict
    entry: dict

    def node(self, title: str) -> str:
        """The id of the node with this title."""
        return next(node for node, entry in self.prompt.items() if entry.get("_meta", {}).get("title") == title)

    def output(self, node: str) -> dict:
        """What an output node shows."""
        return self.entry["outputs"][node]

    def pictures(self, node: str) -> list[np.ndarray]:
        """The pictures of an output node, (height, width, 3) in bytes."""
        refs = self.output(node)["images"]
        pictures = (Image.open(io.BytesIO(server.view(self.running, ref))) for ref in refs)
        return [np.asarray(picture.convert("RGB")) for picture in pictures]

    def latents(self, sampler: str) -> Tensor:
        """What a KSampler gave, in float32; its prompt must have been made by `with_latents`."""
        (ref,) = self.output(latents_id(sampler))["latents"]
        return load_file(self.running.base_directory / "output" / ref["subfolder"] / ref["filename"])["latent_tensor"]

    def cached(self) -> list[str]:
        """The nodes that did not run because the server still had what they gave."""
        messages = dict(self.entry["status"]["messages"])
        return messages.get("execution_cached", {}).get("nodes", [])


@dataclass
class Bench:
    """A server to run prompts on; each workflow runs once and is then remembered."""

    running: server.Server
    info: dict
    _done: dict[str, Finished] = field(default_factory=dict)

    def run(self, prompt: dict) -> Finished:
        """Run an API prompt. Raises as `server.queue` and `server.wait` do."""
        return Finished(
            self.running, prompt, server.wait(self.running, server.queue(self.running, prompt), timeout=300)
        )

    def quick_prompt(self, name: str) -> dict:
        """The API prompt of a workflow, made short and with its latents saved."""
        prompt = with_latents(server.api_prompt(make_workflows.workflow(name), self.info))
        for entry in prompt.values():
            entry["inputs"] |= {
                key: value
                for key, value in QUICK.items()
                if key in entry["inputs"] and not isinstance(entry["inputs"][key], list)
            }
        return prompt

    def workflow(self, name: str) -> Finished:
        """A workflow of the repository, run once; the one that saves what it loads goes first."""
        if name not in self._done:
            if name in make_workflows.NEEDS:
                self.workflow(make_workflows.NEEDS[name])
            self._done[name] = self.run(self.quick_prompt(name))
        return self._done[name]
