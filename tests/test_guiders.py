"""Under every guider, patch of guidance and way to split a batch, an acting edit changes all rows but the negative prompt's.

The edit here swaps one word's text states for another's in the rows that it is told to edit. The picture must then be,
bit for bit, the one that the unedited model draws when the prompts themselves, all but the negative one, say the other word.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from concept_erasure.erasure_core.erased_unet import ErasedUNet, Provenance
from concept_erasure.erasure_core.inference import ModelCall
from erasure_tests.acting import ACTING, acting
from erasure_tests.families import small_model
from torch import Tensor

from testbed.playground import Playground

pytestmark = pytest.mark.usefixtures("as_a_node_runs", "few_words")
WORD, OTHER = "circle", "square"
Prompt = list[list[Any]]
Words = Callable[..., Prompt]


@pytest.fixture(scope="module")
def testbed() -> Playground:
    """A random SD 1.5; its text is made word by word."""
    return small_model("SD1.5")


@dataclasses.dataclass
class Swap:
    """An `InferenceEdit`: in the positive rows the word's states become the other's."""

    word: Tensor
    other: Tensor

    def __call__(self, _modules, call: ModelCall, forward, _strength) -> Tensor:
        """See `InferenceEdit`."""
        says = (call.tokens == self.word).all(-1, keepdim=True) & call.positive[:, None, None]
        return forward(torch.where(says, self.other.to(call.tokens), call.tokens))


@pytest.fixture
def swapped(testbed: Playground, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The MODEL with that edit on it."""
    from concept_erasure.nodes.host import patching

    swap = Swap(*(prompt(testbed, word)[0][0][0, 0] for word in (WORD, OTHER)))
    monkeypatch.setattr(patching, "inference_edit", lambda _erased: swap)
    said = Provenance("swap", {}, ((WORD, OTHER),), (), 0, "SD15", kind="hook")
    return patching.patched(testbed.model, ErasedUNet({}, said), 1.0)


def prompt(testbed: Playground, *words: str, **options: Any) -> Prompt:
    """Conditioning of some words, with further options of ComfyUI's."""
    ((states, _),) = testbed.clip.encode_from_tokens_scheduled(testbed.clip.tokenize(" ".join(words)))
    return [[states, options]]


def longer(first: Prompt, second: Prompt) -> Prompt:
    """One after the other, as Conditioning (Concat) makes it: twice as many states."""
    return [[torch.cat([first[0][0], second[0][0]], 1), first[0][1]]]


def drawn(guider: Any, *, batch: int = 1, sampler: str = "euler", steps: int = 2) -> Tensor:
    """What Sampler Custom Advanced makes with a guider."""
    import comfy.samplers

    noise = torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    sampling = guider.model_patcher.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps)
    chosen = comfy.samplers.sampler_object(sampler)
    torch.manual_seed(5)  # samplers that add noise draw it from the global source
    return guider.sample(noise, torch.zeros_like(noise), chosen, sigmas, disable_pbar=True, seed=3)


def node(module: str, name: str, *given: Any) -> Any:
    """The first output of one of ComfyUI's nodes."""
    made = getattr(importlib.import_module(f"comfy_extras.nodes_{module}"), name)
    return (made.execute(*given) if hasattr(made, "execute") else made().patch(*given))[0]


def plain(model: Any, say: Words, no: Words, cfg: float = 3.0) -> Any:
    """CFG Guider, what KSampler uses."""
    return node("custom_sampler", "CFGGuider", model, say("red", WORD), no("blue", WORD), cfg)


def dual(model: Any, say: Words, no: Words, *scales: Any) -> Any:
    """Dual CFG Guider, whose second prompt says the word too."""
    return node("custom_sampler", "DualCFGGuider", model, say("red", WORD), say("a", WORD), no("blue", WORD), *scales)


def perp_neg(model: Any, say: Words, no: Words, *scales: float) -> Any:
    """Perp-Neg Guider."""
    return node("perpneg", "PerpNegGuider", model, say("red", WORD), no("blue", WORD), no("some", WORD), *scales)


GUIDERS: dict[str, Callable[[Any, Words, Words], Any]] = {
    "cfg": plain,
    "cfg, scale 1": lambda *a: plain(*a, cfg=1.0),
    "basic": lambda model, say, _no: node("custom_sampler", "BasicGuider", model, say("red", WORD)),
    "dual": lambda *a: dual(*a, 3.0, 2.0, "regular"),
    "dual, scale 1": lambda *a: dual(*a, 3.0, 1.0, "regular"),
    "dual, both scales 1": lambda *a: dual(*a, 1.0, 1.0, "regular"),
    "dual, nested": lambda *a: dual(*a, 3.0, 2.0, "nested"),
    "dual, nested, scale 1": lambda *a: dual(*a, 1.0, 2.0, "nested"),
    "perp-neg": lambda *a: perp_neg(*a, 3.0, 1.0),
    "perp-neg, scale 0": lambda *a: perp_neg(*a, 3.0, 0.0),
    "two models": lambda model, say, no: node(
        "custom_sampler", "DualModelGuider", model, say("red", WORD), 3.0, model.parent, no("blue", WORD)
    ),
}


def check(testbed: Playground, swapped: Any, make: Callable[[Any, Words, Words], Any], **how: Any) -> None:
    """The picture of the edited model is the base's with the other word, and the word does make another picture."""

    def say(*words: str, **options: Any) -> Prompt:
        return prompt(testbed, *words, **options)

    def other(*words: str, **options: Any) -> Prompt:
        return prompt(testbed, *(OTHER if word == WORD else word for word in words), **options)

    base = testbed.model.clone()
    edited, wanted, before = (drawn(make(*given, say), **how) for given in ((swapped, say), (base, other), (base, say)))
    assert not torch.equal(wanted, before), "the word makes no difference here"
    assert torch.equal(edited, wanted), (edited - wanted).abs().max()


@pytest.mark.parametrize("name", GUIDERS)
def test_under_every_guider(testbed: Playground, swapped: Any, name: str) -> None:
    check(testbed, swapped, GUIDERS[name])


PATCHES: dict[str, Callable[[Any, Words], Any]] = {
    "PAG": lambda model, _say: node("pag", "PerturbedAttentionGuidance", model, 3.0),
    "SAG": lambda model, _say: node("sag", "SelfAttentionGuidance", model, 0.5, 2.0),
    "skip layers": lambda model, _say: node("slg", "SkipLayerGuidanceDiT", model, 3.0, 0.0, 1.0, "0", "0"),
    "skip layers, simple": lambda model, _say: node("slg", "SkipLayerGuidanceDiTSimple", model, 0.0, 1.0, "0", "0"),
    "NAG": lambda model, _say: node("nag", "NAGuidance", model, 5.0, 0.5, 1.5),
    "APG": lambda model, _say: node("apg", "APG", model, 1.0, 5.0, 0.0),
    "TCFG": lambda model, _say: node("tcfg", "TCFG", model),
    "zero star": lambda model, _say: node("cfg", "CFGZeroStar", model),
    "rescaled": lambda model, _say: node("model_advanced", "RescaleCFG", model, 0.7),
    "perp-neg node": lambda model, say: node("perpneg", "PerpNeg", model, say("some", WORD), 1.0),
    "EasyCache": lambda model, _say: node("easycache", "EasyCacheNode", model, 3.0, 0.0, 1.0, False),
    "LazyCache": lambda model, _say: node("easycache", "LazyCacheNode", model, 0.1, 0.0, 1.0, False),
}


@pytest.mark.parametrize("name", PATCHES)
def test_with_every_patch_of_guidance(testbed: Playground, swapped: Any, name: str) -> None:
    check(testbed, swapped, lambda model, say, no: plain(PATCHES[name](model, say), say, no), steps=3)


@pytest.mark.parametrize("sampler", ["euler_cfg_pp", "dpmpp_2s_ancestral_cfg_pp", "dpmpp_sde", "uni_pc"])
def test_with_samplers_that_ask_more_than_once_or_for_the_negative_prompt(testbed, swapped, sampler: str) -> None:
    check(testbed, swapped, plain, sampler=sampler)


def windows(model: Any) -> Any:
    """Context windows over the pictures of a batch, as if they were frames."""
    return node(
        "context_windows", "ContextWindowsManualNode", model, 2, 1, "standard_static", 1, False, "pyramid", 0, False
    )


@functools.cache
def once(make: Callable[[], Any]) -> Any:
    """One object for all prompts that are compared; ComfyUI is imported only when it is made."""
    return make()


def control() -> Any:
    """A stand-in for a ControlNet: a constant in the middle of the network."""
    from comfy.controlnet import ControlBase

    class Constant(ControlBase):
        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            return {"input": [], "middle": [0.3 * torch.ones(len(x_noisy), 1, 1, 1)], "output": []}

        def copy(self):
            return self

    return Constant()


def hooks() -> Any:
    """A LoRA that acts on one prompt only, as Create Hook LoRA makes it."""
    import comfy.hooks

    name = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_v"
    lora = {f"{name}.lora_up.weight": torch.ones(64, 1), f"{name}.lora_down.weight": torch.ones(1, 768)}
    return comfy.hooks.create_hook_lora(lora, 0.1, 0.0)


AREA, MASK = {"area": (8, 4, 0, 0), "strength": 1.0}, {"mask": torch.arange(64.0).reshape(1, 8, 8) / 64}
SPLIT: dict[str, Callable[[Words], Prompt]] = {
    "area": lambda say: say("red", WORD) + say("small", WORD, **AREA),
    "areas only": lambda say: say("red", WORD, **AREA) + say("small", WORD, area=(8, 4, 0, 4)),
    "mask": lambda say: say("red", WORD) + say("small", WORD, **MASK),
    "bounds of a mask": lambda say: say("red", WORD) + say("small", WORD, set_area_to_bounds=True, **MASK),
    "time": lambda say: say("red", WORD, end_percent=0.5) + say("small", WORD, start_percent=0.5),
    "the rest of the picture": lambda say: say("red", WORD, **MASK) + say("small", WORD, default=True),
    "twice as long": lambda say: longer(say("red", WORD), say("small", WORD)),
    "control": lambda say: say("red", WORD, control=once(control), control_apply_to_uncond=True),
    "a LoRA of its own": lambda say: say("red", WORD, hooks=once(hooks)),
}


@pytest.mark.parametrize("style", ["cfg", "dual"])
@pytest.mark.parametrize("name", SPLIT)
def test_with_a_prompt_in_parts(testbed: Playground, swapped: Any, name: str, style: str) -> None:
    def guider(model: Any, say: Words, no: Words) -> Any:
        if style == "cfg":
            return node("custom_sampler", "CFGGuider", model, SPLIT[name](say), no("blue", WORD), 3.0)
        return node(
            "custom_sampler",
            "DualCFGGuider",
            model,
            SPLIT[name](say),
            say("a", WORD),
            no("blue", WORD),
            3.0,
            2.0,
            "nested",
        )

    check(testbed, swapped, guider)


@pytest.mark.parametrize("name", ["cfg", "dual", "perp-neg"])
@pytest.mark.parametrize("how", ["a batch", "little memory", "windows"])
def test_in_every_batch_order(testbed: Playground, swapped: Any, monkeypatch, name: str, how: str) -> None:
    import comfy.model_patcher

    if how == "little memory":
        monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "get_free_memory", lambda *_: 0)
    around = windows if how == "windows" else lambda model: model
    check(testbed, swapped, lambda model, say, no: GUIDERS[name](around(model), say, no), batch=3)


def halved(apply: Callable[..., Tensor], call: dict[str, Any]) -> Tensor:
    """What a user's wrapper does that calls the network for one row after the other."""
    rows = range(len(call["input"]))
    parts = [{k: v[i : i + 1] if torch.is_tensor(v) else v for k, v in call["c"].items()} for i in rows]
    return torch.cat([apply(call["input"][i : i + 1], call["timestep"][i : i + 1], **parts[i]) for i in rows])


def test_where_nobody_can_tell_all_rows_are_edited(testbed: Playground, swapped: Any) -> None:
    """A batch that was split on the way, and a negative prompt whose only area was lent to the positive one."""

    def split(model: Any, say: Words, _no: Words) -> Any:
        model = model.clone()
        model.set_model_unet_function_wrapper(halved)
        return plain(model, say, say)

    def lent(model: Any, say: Words, _no: Words) -> Any:
        return node("custom_sampler", "CFGGuider", model, say("red", WORD), say("blue", WORD, **AREA), 3.0)

    check(testbed, swapped, split, batch=2)
    check(testbed, swapped, lent)


def test_the_callers_options_stay_as_they_are(testbed: Playground, swapped: Any) -> None:
    seen = []
    swapped.set_model_sampler_post_cfg_function(lambda args: seen.append(args["model_options"]) or args["denoised"])
    drawn(plain(swapped, lambda *words: prompt(testbed, *words), lambda *words: prompt(testbed, *words)))
    assert len({frozenset(options["transformer_options"]) for options in seen}) == 1 and len(seen) == 2
    assert not [name for name in swapped.model_options["transformer_options"] if name.startswith("erasure.")]


@pytest.mark.parametrize("name", ACTING)
def test_every_acting_edit_acts_under_every_guider(testbed: Playground, name: str) -> None:
    from concept_erasure.nodes import host

    edited = host.patched(testbed.model, acting(testbed, name), 20.0)
    say = lambda *words: prompt(testbed, *words)  # noqa: E731
    for guider in GUIDERS:
        after, before = (drawn(GUIDERS[guider](model, say, say), steps=1) for model in (edited, testbed.model.clone()))
        assert bool(after.isfinite().all()) and (after - before).abs().max() > 1e-3, guider


@pytest.mark.parametrize("name", ACTING)
def test_an_edit_of_several_passes_is_not_taken_for_one_by_a_cache(testbed: Playground, name: str) -> None:
    """EasyCache keeps what the network made of a prompt and gives it again: of each pass its own."""
    from concept_erasure.nodes import host

    edited = host.patched(testbed.model, acting(testbed, name), 0.5)
    say = lambda *words: prompt(testbed, *words)  # noqa: E731
    exact = drawn(plain(edited, say, say), steps=4)
    never, always = (node("easycache", "EasyCacheNode", edited, threshold, 0.0, 1.0, False) for threshold in (0.0, 3.0))
    assert torch.equal(drawn(plain(never, say, say), steps=4), exact)
    assert bool(drawn(plain(always, say, say), steps=4).isfinite().all())


def test_each_pass_of_a_call_has_ids_of_its_own(testbed: Playground) -> None:
    """Or at half its strength the key of KPOP is compared with itself wherever EasyCache skips a step."""
    from comfy.patcher_extension import WrappersMP
    from concept_erasure.nodes import host

    seen = []

    def note(executor: Any, *given: Any, **named: Any) -> Tensor:
        options = next(one for one in (*given, *named.values()) if isinstance(one, dict) and "uuids" in one)
        seen.append(tuple(options["uuids"]))
        return executor(*given, **named)

    edited = host.patched(testbed.model, acting(testbed, "kpop"), 0.5)
    edited.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "note", note)
    drawn(plain(edited, lambda *words: prompt(testbed, *words), lambda *words: prompt(testbed, *words)))
    assert len(seen) == 4 and len(set(seen)) == 2, seen
