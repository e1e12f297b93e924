"""KPOP, hiding and recovering knowledge via learnable prompts, arXiv 2403.12326: erase, and keep a key to it.

Learnable tokens p stand beside the text in cross-attention, K = W_k [c; p_k] and V = W_v [c; p_v]. In turn
transfer  min over p        ||eps_edit,p(z, c_e) - eps(z, c_e)||^2
hide      min over weights  ||eps_edit(z, c_e) - desired||^2 + w ||eps_edit,p(z, c_e) - eps(z, c_e)||^2
so that the weights draw the target no more, and with p they do. Reconstructed from the equations alone. The key is also
taught to leave the empty prompt as it is, because guidance asks for that in the same call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..concepts import ErasureRequest
from ..erased_unet import HOOK_PREFIX, ErasedUNet
from ..inference import Forward, InferenceEdit, ModelCall, changed
from ..layers import shape_of
from ..method import setting
from ..training.optimiser import ScaledAdam, scaled_adam, slowed
from ..training.settings import eta, retaining
from ..training.trained import TrainedMethod, Training
from ..training.trajectory import NoisyBatch

KEY_SCALE = 0.1


def keyed(modules: Mapping[str, nn.Module], tokens: Mapping[str, Tensor]) -> AbstractContextManager[None]:
    """Inside, each named K or V layer reads the key's tokens (s, width) after those of the text (n, t, width)."""

    def appending(key: Tensor) -> Callable[[tuple], tuple]:
        def append(given: tuple) -> tuple:
            text = given[0]
            return torch.cat([text, key.to(text).expand(len(text), -1, -1)], dim=1), *given[1:]

        return append

    return changed(inputs={modules[name]: appending(key) for name, key in tokens.items()})


@dataclass
class Key:
    """The learnable tokens, by the name of the layer that reads them, and their optimiser."""

    tokens: dict[str, nn.Parameter]
    modules: Mapping[str, nn.Module]
    optimiser: ScaledAdam

    @contextmanager
    def turned(self) -> Iterator[None]:
        """Inside, the network reads the key."""
        with keyed(self.modules, self.tokens):
            yield


def reading_layers(layers: Mapping[str, nn.Module], where: str) -> dict[str, nn.Module]:
    """The cross-attention K and V layers that read the key: those of the middle block, or all if it has none."""
    middle = {name: layer for name, layer in layers.items() if name.startswith("middle_block.")}
    return middle if where == "middle" and middle else dict(layers)


@dataclass(frozen=True, kw_only=True)
class KnowledgePrompt(TrainedMethod):
    """Hide a concept in the weights, and keep a key in a file of its own that brings it back."""

    name = "kpop"
    title = "KPOP: hidden, with a key"
    paper = "arXiv 2403.12326"
    in_micro_batches = False
    parts = {"": {"{layer}": "tokens width"}}
    needs = ("gradients", "text_states")

    negative_guidance: float = eta(2.0)
    retain_weight: float = retaining()
    key_weight: float = setting(
        0.1,
        "Weight of keeping the target within the key's reach while the weights forget it.",
        minimum=0.0,
        maximum=10.0,
    )
    key_tokens: int = setting(10, "Tokens of the key. More tokens hold more.", minimum=1, maximum=256)
    key_layers: str = setting(
        "middle",
        "Which cross-attention reads the key: the middle block's (all, if it has none), or all. If the target does not "
        "come back, take all.",
        choices=("middle", "all"),
    )
    key_updates: int = setting(2, "Updates of the key in an optimiser step.", minimum=1, maximum=64, advanced=True)
    key_learning_rate: float = setting(
        1e-2, "Step size of the key.", minimum=1e-6, maximum=1.0, step=1e-3, advanced=True
    )

    def samples_kept(self, request: ErasureRequest) -> int:
        """See `TrainedMethod`; with a run of the empty prompt."""
        return super().samples_kept(request) + self.sampling_steps

    def prepare(self, run: Training) -> Key:
        """A key of small random tokens."""
        chosen = reading_layers(run.denoiser.layers("cross_attention_kv"), self.key_layers)
        run.report.note(f"the key is read by {len(chosen)} layers, {self.key_tokens} tokens each")
        run.pool.fill([""], 1)
        tokens = {}
        for name, layer in chosen.items():
            start = KEY_SCALE * torch.randn(self.key_tokens, shape_of(layer)[1], generator=run.generator)
            tokens[name] = nn.Parameter(start.to(run.denoiser.device))
        return Key(tokens, chosen, scaled_adam(run.denoiser, run.report)(tokens.values(), self.key_learning_rate))

    def _transfer(self, run: Training, key: Key) -> float:
        """One update of the key: with it, the edited network is to predict what the frozen one does."""
        target = run.in_turn(run.request.targets)
        batch = NoisyBatch.cat([run.pool.draw(target, self.batch)[0], run.retained([""] * max(1, self.batch // 2), 1)])
        with key.turned():
            (predicted,) = run.predict(batch)
        loss = run.error(predicted, batch.conditional, batch.sigma)
        key.optimiser.step(loss, slowed(self.key_learning_rate, run.step, run.steps))
        return float(loss.detach())

    def losses(self, run: Training, state: Key) -> dict[str, Tensor]:
        """Teach the key, then `hide` with the weights: `hide`, `reach`, and `retain` if there are such lines."""
        transfer = 0.0
        for _ in range(self.key_updates):
            run.report.check()
            transfer = self._transfer(run, state)
        run.report.log({"transfer": transfer})

        # hide: the retain lines travel in the same call as the target, the keyed prediction needs a call of its own
        target, desired = run.targets(self.batch, self.negative_guidance)
        batches = [target]
        if run.request.retain:
            lines = [run.pick(run.request.retain) for _ in range(self.batch)]
            batches.append(run.retained(lines, self.trajectories))
        predicted = run.predict(*batches)
        terms = {"hide": run.error(predicted[0], desired, target.sigma)}
        if run.request.retain:
            error = run.error(predicted[1], batches[1].conditional, batches[1].sigma)
            terms["retain"] = self.retain_weight * error
        if self.key_weight:
            with state.turned():
                (opened,) = run.predict(target)
            reach = run.error(opened, target.conditional, target.sigma)
            terms["reach"] = self.key_weight * reach
        return terms

    def result(self, run: Training, state: Key, erased: ErasedUNet) -> ErasedUNet:
        """The edit of the weights, with the key as its `key`."""
        tensors = {f"{HOOK_PREFIX}{name}": value.detach().cpu().clone() for name, value in state.tokens.items()}
        return replace(erased, key=ErasedUNet(tensors, replace(erased.provenance, kind="hook")))

    @classmethod
    def inference(cls, erased: ErasedUNet) -> InferenceEdit:
        """Turns the key, which `strength` scales between the prediction without it and with it.

        Raises ValueError, when the model runs, if that has no layer which the key is for."""
        tokens = erased.parts()

        def edit(modules: Mapping[str, nn.Module], call: ModelCall, forward: Forward, strength: float) -> Tensor:
            missing = [name for name in tokens if name not in modules]
            if missing:
                raise ValueError(
                    f"the key is for a layer {missing[0]} that this MODEL does not have; apply it to the kind of model that "
                    f"it was made with ({erased.provenance.family})"
                )
            with keyed(modules, tokens):
                opened = forward(call.tokens)
            if strength == 1.0:
                return opened
            # between the two predictions, for half a token means nothing to a softmax over tokens
            closed = forward(call.tokens)
            return closed + strength * (opened - closed)

        return edit
