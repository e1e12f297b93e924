"""The base class of erasure methods, their settings, and the registry that finds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from .concepts import ErasureRequest
from .denoiser import Denoiser
from .erased_unet import HOOK, WEIGHTS, ErasedUNet, Provenance
from .erased_unet.declared import Declaration, NotWhole, check_declared, layers_in
from .families import NEEDS, family_named
from .inference import InferenceEdit
from .report import EVALUATIONS, STEPS, TEXT, Report, Work

TEMPLATE_WORDS, VOCABULARY_WORDS, CLOSED_FORM_LAYERS = 20, 100, 32
"""Rough counts for `ErasureMethod.work`: words of the prompt templates and of a vocabulary that are encoded, layers of a closed
form."""
_REGISTRY: dict[str, type[ErasureMethod]] = {}


def setting(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    step: float | None = None,
    choices: tuple[str, ...] | None = None,
    advanced: bool = False,
) -> Any:
    """A settings field of a method: default, range and help, stated once. Widgets, docs and checks follow from it."""
    metadata = {
        "help": help,
        "minimum": minimum,
        "maximum": maximum,
        "step": step,
        "choices": choices,
        "advanced": advanced,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class ErasureMethod:
    """A way to erase concepts. The dataclass fields are its settings; a file in `methods/` that defines a subclass with
    a `name` is all that a new method takes. `needs` says what of `families.NEEDS` a model must have for it, `parts` what an
    edit of it that acts while sampling holds (`declared`).

    Raises ValueError on construction if a setting is outside its range, naming the setting and the range.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()
    parts: ClassVar[Declaration] = {}

    seed: int = 0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__dict__.get("name"):
            return
        other = _REGISTRY.get(cls.name)
        if other is not None and other.__module__ != cls.__module__:
            raise TypeError(
                f"two erasure methods are named {cls.name!r}: {other.__module__} and {cls.__module__}; rename one"
            )
        _REGISTRY[cls.name] = cls

    def __post_init__(self) -> None:
        for field in settings_of(type(self)):
            check_setting(self.name, field, getattr(self, field.name))

    def erase(self, denoiser: Denoiser, request: ErasureRequest, report: Report) -> ErasedUNet:
        """Erase what `request` names. The network is left as it was, also on an exception.

        Raises ValueError for a request that this model or method cannot take, FloatingPointError for a loss that is not
        finite, and whatever `report` raises when the user cancels.
        """
        raise TypeError(f"{type(self).__name__} does not say how it erases: implement erase()")

    def work(self, request: ErasureRequest) -> Work:
        """About how much a run has to do, from the settings that most methods have. It is only for the progress bar, which
        measures how fast the work is done and corrects this by it."""
        runs = len(request.pairs) * getattr(self, "trajectories", 0)
        searched = getattr(self, "vocabulary", None) not in (None, "none")
        words = getattr(self, "candidates", VOCABULARY_WORDS) if searched else 0
        steps, batch = getattr(self, "steps", None), getattr(self, "batch", 1)
        return {
            TEXT: (TEMPLATE_WORDS + words + 3 * runs, 1.0),
            EVALUATIONS: (3 * runs * getattr(self, "sampling_steps", 0), 1.0),
            STEPS: (CLOSED_FORM_LAYERS, 0.07) if steps is None else (steps * len(request.pairs), 3.0 * batch),
        }

    @classmethod
    def inference(cls, erased: ErasedUNet) -> InferenceEdit:
        """The behaviour while the model runs of an erased UNet of kind `hook` that this method made."""
        raise TypeError(f"{cls.__name__} makes edits of weights only: implement inference()")


class HasSettings(Protocol):
    """A dataclass whose fields are settings: an erasure method, or an attack on one."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


def settings_of(owner: type[HasSettings]) -> list[dataclasses.Field]:
    """The fields of `owner` that a user sets, in order."""
    return [field for field in dataclasses.fields(owner) if "help" in field.metadata]


def check_setting(method: str, field: dataclasses.Field, value: Any) -> None:
    """Raise ValueError if `value` is not one that the settings field allows."""
    low, high, choices = (field.metadata[key] for key in ("minimum", "maximum", "choices"))
    if choices is not None and value not in choices:
        raise ValueError(f"{method}: {field.name} is {value!r}; choose one of {', '.join(choices)}")
    if (low is not None and value < low) or (high is not None and value > high):
        raise ValueError(f"{method}: {field.name} is {value}, outside {low} to {high}; its default is {field.default}")


def methods() -> dict[str, type[ErasureMethod]]:
    """Every erasure method by name: all that the files in `methods/` define, sorted."""
    return dict(sorted(_REGISTRY.items()))


def check_parts(erased: ErasedUNet) -> None:
    """Raise ValueError, naming the tensor, for an edit that acts while sampling if no method here made it, or its parts
    are not those that the method declares."""
    if erased.provenance.kind != HOOK:
        return
    name = erased.provenance.method
    if name not in methods():
        raise ValueError(
            f"this erased UNet acts while the model runs, as the method {name!r} defines it, and this pack has no such "
            f"method; it knows {', '.join(methods())}. Update the pack, or add the method's file"
        )
    try:
        check_declared(erased.parts(), methods()[name].parts, len(erased.provenance.targets))
    except NotWhole as error:
        raise ValueError(f"the erased UNet is no whole edit of {name}: {error}; get the original file") from error


def check_layers(erased: ErasedUNet, modules: Iterable[str]) -> None:
    """Raise ValueError, naming it, if an edit that acts while sampling is for a module that the network, whose modules have
    these names, does not have; after `check_parts`."""
    if erased.provenance.kind != HOOK:
        return
    missing = layers_in(erased.parts(), methods()[erased.provenance.method].parts) - set(modules)
    if missing:
        raise ValueError(
            f"the erased UNet acts on {min(missing)!r}, which this MODEL does not have; apply it to the kind of model that it "
            f"was made for ({erased.provenance.family})"
        )


def inference_edit(erased: ErasedUNet) -> InferenceEdit:
    """The behaviour of an erased UNet of kind `hook` while the model runs. Raises ValueError as `check_parts` does."""
    check_parts(erased)
    return methods()[erased.provenance.method].inference(erased)


def provenance(method: ErasureMethod, denoiser: Denoiser, request: ErasureRequest, kind: str = WEIGHTS) -> Provenance:
    """Where the result of `method` on `denoiser` comes from."""
    return Provenance(
        method=method.name,
        settings={field.name: getattr(method, field.name) for field in settings_of(type(method))},
        targets=tuple((pair.target, pair.anchor) for pair in request.pairs),
        inside=tuple(pair.target for pair in request.pairs if pair.inside),
        retain=request.retain,
        seed=method.seed,
        family=denoiser.family,
        fingerprint=denoiser.fingerprint,
        kind=kind,
    )


def check_prompts(denoiser: Denoiser, request: ErasureRequest) -> None:
    """Raise ValueError, naming the prompt, if the text encoder cannot see something that the request says."""
    check_visible(denoiser, (*request.targets, *(pair.anchor for pair in request.pairs), *request.retain))


def check_family(method: type[ErasureMethod], name: str) -> None:
    """Raise ValueError, saying why and what to do, if `method` does not hold in the family of that name or the family is
    not in the table."""
    family = family_named(name)
    for need in method.needs:
        if need in family.lacks:
            raise refusal(method.name, family.title, need, family.lacks[need])


def refusal(method: str, title: str, need: str, why: str) -> ValueError:
    """The error for a method that a model cannot take."""
    return ValueError(
        f"{method} does not work on {title} models: it needs {NEEDS[need]}, and {why}. "
        f"The table of model families, which the README links, says which methods do"
    )


def check_visible(denoiser: Denoiser, prompts: Iterable[str]) -> None:
    """Raise ValueError, naming the prompt, if the text encoder cannot see one of them; the empty one is seen."""
    for prompt in prompts:
        trouble = denoiser.describe_prompt(prompt) if prompt else None
        if trouble:
            raise ValueError(f"{prompt!r}: {trouble}")
