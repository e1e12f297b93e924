"""An acting edit on every clone that ComfyUI makes of a MODEL, also where the clone has a network of its own."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from concept_erasure.erasure_core.erased_unet import ErasedUNet
from erasure_tests.acting import ACTING, acting
from erasure_tests.families import small_model
from torch import Tensor

from testbed.playground import Playground

pytestmark = pytest.mark.usefixtures("as_a_node_runs", "few_words")
STRENGTH = 20.0
LORA = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_v"


def node(module: str, name: str) -> Any:
    """One of ComfyUI's node classes."""
    return getattr(importlib.import_module(f"comfy_extras.nodes_{module}"), name)


@pytest.fixture(scope="module")
def testbed() -> Playground:
    """A random SD 1.5 that ComfyUI can load a second time, as it can what comes from a file."""
    made = small_model("SD1.5")
    made.model.cached_patcher_init = (lambda disable_dynamic=False: small_model("SD1.5").model, ())
    return made


@pytest.fixture
def dynamic(testbed: Playground) -> Any:
    """The MODEL as it is under ComfyUI's dynamic memory, its default on NVIDIA, which the CPU does not have."""
    import comfy.model_patcher

    class Dynamic(comfy.model_patcher.ModelPatcher):
        non_dynamic_delegate_model = None
        get_non_dynamic_delegate = comfy.model_patcher.ModelPatcherDynamic.get_non_dynamic_delegate

        def is_dynamic(self) -> bool:
            return True

    made = Dynamic(testbed.model.model, testbed.model.load_device, testbed.model.offload_device)
    made.cached_patcher_init = testbed.model.cached_patcher_init
    return made


def prompt(testbed: Playground, text: str, **options: Any) -> list[list[Any]]:
    """Conditioning of a text."""
    ((states, _),) = testbed.clip.encode_from_tokens_scheduled(testbed.clip.tokenize(text))
    return [[states, options]]


def drawn(testbed: Playground, model: Any, **options: Any) -> Tensor:
    """What KSampler makes; the options are those of the positive prompt."""
    import comfy.sample

    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    positive, negative = prompt(testbed, "a red circle", **options), prompt(testbed, "")
    return comfy.sample.sample(
        model, noise, 2, 3.0, "euler", "normal", positive, negative, torch.zeros_like(noise), disable_pbar=True, seed=3
    )


def compiled(model: Any) -> Any:
    """What Torch Compile makes; its back ends want a compiler, so this one only traces."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    clone = model.clone(disable_dynamic=True)
    guards = importlib.import_module("comfy_extras.nodes_torch_compile").skip_torch_compile_dict
    set_torch_compile_wrapper(model=clone, backend="eager", options={"guard_filter_fn": guards})
    return clone


def lora(size: float) -> dict[str, Tensor]:
    """A LoRA of one layer."""
    return {f"{LORA}.lora_up.weight": torch.full((64, 1), size), f"{LORA}.lora_down.weight": torch.ones(1, 768)}


def with_a_lora(model: Any) -> Any:
    """What Load LoRA makes, of a LoRA that changes nothing."""
    import comfy.sd

    return comfy.sd.load_lora_for_models(model, None, lora(0.0), 1.0, 0.0)[0]


CLONES: dict[str, Callable[[Any], Any]] = {
    "clone": lambda model: model.clone().clone(),
    "without dynamic memory": lambda model: model.clone(disable_dynamic=True),
    "for training": lambda model: model.clone(force_deepcopy=True),
    "of a clone for training": lambda model: model.clone(force_deepcopy=True).clone(),
    "on another network": lambda model: model.clone(
        model_override=small_model("SD1.5").model.get_clone_model_override()
    ),
    "for another device": lambda model: model.deepclone_multigpu(new_load_device=model.load_device),
    "selected device": lambda model: node("multigpu", "SelectModelDeviceNode").execute(model, "cpu")[0],
    "split over devices": lambda model: node("multigpu", "MultiGPUCFGSplitNode").execute(model, 2)[0],
    "with a LoRA": with_a_lora,
    "compiled": compiled,
    "compiled, for training": lambda model: compiled(model).clone(force_deepcopy=True),
}


@pytest.fixture(params=ACTING)
def edit(testbed: Playground, request: pytest.FixtureRequest) -> ErasedUNet:
    """An acting edit of every method that makes one."""
    return acting(testbed, request.param)


@pytest.fixture
def edited(testbed: Playground, edit: ErasedUNet) -> Any:
    """The MODEL with the edit on it."""
    from concept_erasure.nodes import host

    return host.patched(testbed.model, edit, STRENGTH)


@pytest.fixture(autouse=True)
def nothing_is_left_behind(testbed: Playground) -> Iterator[None]:
    """No test leaves a hook on the base's network, or torch uncompiled."""
    yield
    modules = testbed.model.model.diffusion_model.modules()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def check_warns(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The clone says what it carries."""
    caplog.clear()
    model.state_dict_for_saving()
    assert "the erasure of 'circle' acts while the model runs and is not in this file" in caplog.text


@pytest.mark.parametrize(
    "edit", [pytest.param(name, marks=() if name == "dumo" else pytest.mark.slow) for name in ACTING], indirect=True
)
def test_the_edit_acts_on_every_clone_and_every_clone_says_that_it_carries_it(testbed, edited, caplog) -> None:
    before, wanted = drawn(testbed, testbed.model), drawn(testbed, edited)
    assert (wanted - before).abs().max() > 1e-2
    for name, clone_of in CLONES.items():
        clone = clone_of(edited)
        assert torch.equal(drawn(testbed, clone), wanted), name
        check_warns(clone, caplog)
    assert torch.equal(drawn(testbed, testbed.model), before)


def test_it_acts_under_dynamic_memory_where_these_clones_have_networks_of_their_own(
    testbed, dynamic, edit, caplog
) -> None:
    import comfy.hooks
    from concept_erasure.nodes import host

    wanted = drawn(testbed, host.patched(testbed.model, edit, STRENGTH))
    model = host.patched(dynamic, edit, STRENGTH)
    made = {
        "plain": model.clone(disable_dynamic=True),
        "selected device": node("multigpu", "SelectModelDeviceNode").execute(model, "cpu")[0],
        "compiled": compiled(model),
        "delegate": model.get_non_dynamic_delegate(),
        "its second": model.get_non_dynamic_delegate().clone(),
    }
    for name, clone in made.items():
        assert clone.model is not model.model and not clone.is_dynamic()
        assert torch.equal(drawn(testbed, clone), wanted), name
        check_warns(clone, caplog)
    hooks = comfy.hooks.create_hook_lora(lora(0.1), 1.0, 0.0)  # which makes the guider take another clone
    wanted, made = (
        drawn(testbed, model, hooks=hooks) for model in (host.patched(testbed.model, edit, STRENGTH), model)
    )
    assert torch.equal(made, wanted) and not torch.equal(made, drawn(testbed, testbed.model, hooks=hooks))


def test_an_edit_of_a_model_that_is_compiled_already_acts_too(testbed: Playground, edit: ErasedUNet, caplog) -> None:
    from concept_erasure.nodes import host

    wanted, model = drawn(testbed, host.patched(testbed.model, edit, STRENGTH)), compiled(testbed.model)
    assert torch.equal(drawn(testbed, model), drawn(testbed, testbed.model)), (
        "and the network has been compiled without it"
    )
    caplog.clear()
    edited = host.patched(model, edit, STRENGTH)
    assert "wherever it acts the model runs uncompiled" in caplog.text
    assert torch.equal(drawn(testbed, edited), wanted) and torch.equal(
        drawn(testbed, model), drawn(testbed, testbed.model)
    )


def test_several_devices_work_at_once(testbed: Playground, edited: Any) -> None:
    """Two networks in two threads, each with half of the prompts, as MultiGPU CFG Split does it."""
    wanted = drawn(testbed, edited)
    model, second = edited.clone(), edited.deepclone_multigpu(new_load_device=torch.device("cpu", 0))
    second.is_multigpu_base_clone = True
    model.set_additional_models("multigpu", [second])
    threads = drawn(testbed, model)
    assert torch.allclose(threads, wanted, atol=1e-3 * float(wanted.abs().max()))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_train_lora_trains_with_the_edit_and_says_so(
    testbed: Playground, edited: Any, caplog, checkpointing: bool
) -> None:
    train = node("train", "TrainLoraNode")
    latents = {"samples": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))}
    losses = []
    for model in (testbed.model, edited):
        caplog.clear()
        _, losses_of, _ = train.execute(
            [model], [latents], [prompt(testbed, "a red circle")], [1], [1], [1], [1e-3], [1], ["AdamW"], ["MSE"], [0],
            ["none"], ["fp32"], [False], ["LoRA"], [checkpointing], [1], [False], ["[None]"], [False], [False],
        ).result  # fmt: skip
        losses.append(losses_of["loss"][0])
        assert ("training on top of the erasure of 'circle'" in caplog.text) == (model is edited)
    assert abs(losses[1] - losses[0]) > 1e-6, losses
