"""Checks the tensors of an edit that acts while sampling against what its method declares, before anything uses them.

A declaration maps groups of tensors to the shape of each: `{"{concept}.gate": {"states": "tokens width"}}` says that the
tensor `0.gate.states` has two dimensions, and that `width` is the same number in all tensors of `0.gate`; the group "" is of
all tensors. In the names of groups and tensors `{concept}` stands for the number of a target, `{skips}` for all numbers
below the dimension `skips` of the group `{concept}`, and `{layer}` for a module of the network; in a shape a number stands
for itself, `bins-1` for one less than `bins`, and `*` at the end for any other dimensions. A dimension is at least 1.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

from torch import Tensor

Declaration = Mapping[str, Mapping[str, str]]
_NUMBER = r"0|[1-9]\d{0,8}"
_STANDS_FOR = {"{concept}": rf"(?P<concept>{_NUMBER})", "{skips}": rf"(?P<skips>{_NUMBER})", "{layer}": "(.+)"}
LOW_RANK: Mapping[str, str] = {"up": "out rank *", "down": "rank in *"}
GATE: Mapping[str, str] = {
    "states": "tokens width",
    "empty": "tokens width",
    "own": "k width",
    "centre": "width",
    "bounds": "2 2",
}


class NotWhole(ValueError):
    """An edit's tensors are not those that its method declares: the file is damaged or from elsewhere."""


def check_declared(parts: Mapping[str, Tensor], declared: Declaration, concepts: int) -> None:
    """Raise NotWhole, naming the tensor, what was expected and what was found, unless the parts of an edit of that
    many concepts (`ErasedUNet.parts`) are those that its method declares, all of them and in fitting shapes."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in parts.items():
        group, tensor = _split(name, declared)
        shapes, match = _form_of(group, declared)
        numbers = match.groupdict() if match else {}
        is_known = any(_pattern(known).fullmatch(tensor) for known in shapes)
        if int(numbers.get("concept") or 0) >= concepts or not is_known:
            raise NotWhole(
                f"the tensor {name!r} is none that the method knows for {concepts} concept{'s' * (concepts != 1)}"
            )
        groups.setdefault(group, {})[tensor] = value
    _check_complete(groups, declared, concepts)

    # as many skips as the scales are for, numbered without a gap
    for group, tensors in groups.items():
        skips = _check_shapes(group, tensors, declared).get("skips")
        if skips is None:
            continue
        skip_groups = [other for other in groups if other.startswith(f"{group}.skip.")]
        numbered = [match["skips"] for other in skip_groups if (match := _form_of(other, declared)[1])]
        if sorted(numbered, key=int) != [str(number) for number in range(skips)]:
            raise NotWhole(
                f"it lacks a part that the method needs: {group!r} is for {skips} skips, it has {len(numbered)}"
            )


def layers_in(parts: Mapping[str, Tensor], declared: Declaration) -> set[str]:
    """The modules of the network that the parts of an edit are for, as `check_declared` found them right."""
    layers: set[str] = set()
    for name in parts:
        group, tensor = _split(name, declared)
        shapes, match = _form_of(group, declared)
        for one in (match, *(_pattern(form).fullmatch(tensor) for form in shapes if "{layer}" in form)):
            if one:  # the groups without a name are those of {layer}
                layers |= set(one.groups()) - set(one.groupdict().values())
    return layers


def _split(name: str, declared: Declaration) -> tuple[str, str]:
    """A tensor's group and its own name in it."""
    group, _, tensor = ("", "", name) if "" in declared else name.rpartition(".")
    return group, tensor


def _check_complete(groups: Mapping[str, Mapping[str, Tensor]], declared: Declaration, concepts: int) -> None:
    """Raise NotWhole if a concept has no group of a declared form, or a group not all of its tensors."""
    forms = [form.replace("{concept}", str(number)) for form in declared for number in range(concepts) if "{c" in form]
    lacking = [form for form in forms if not any(_pattern(form).fullmatch(group) for group in groups)]
    for group, tensors in groups.items():
        lacking += [
            f"{group}.{name}" for name in _form_of(group, declared)[0] if name != "{layer}" and name not in tensors
        ]
    if lacking:
        raise NotWhole(f"it lacks a part that the method needs: {lacking[0]!r}")


def _check_shapes(group: str, tensors: Mapping[str, Tensor], declared: Declaration) -> dict[str, int]:
    """Raise NotWhole unless the tensors of a group have the declared shapes; the sizes of its dimensions by name."""
    shapes, sizes = _form_of(group, declared)[0], {}
    for name, value in tensors.items():
        _check_shape(f"{group}.{name}".lstrip("."), value, shapes.get(name) or shapes["{layer}"], sizes)
    return sizes


def _form_of(group: str, declared: Declaration) -> tuple[Mapping[str, str], re.Match[str] | None]:
    """The shapes of the tensors in a group, and how its name fits the form; none and None if no form has such a name."""
    for form, shapes in declared.items():
        if found := _pattern(form).fullmatch(group):
            return shapes, found
    return {}, None


@functools.cache
def _pattern(form: str) -> re.Pattern[str]:
    """The names that a form stands for."""
    parts = re.split(r"(\{\w+\})", form)
    return re.compile("".join(_STANDS_FOR.get(part, re.escape(part)) for part in parts))


def _check_shape(name: str, value: Tensor, shape: str, sizes: dict[str, int]) -> None:
    """Raise NotWhole unless the tensor has the declared shape; `sizes` are those known in its group, and filled up."""
    wanted = shape.removesuffix("*").split()
    actual = tuple(value.shape)
    fits = len(actual) >= len(wanted) if shape.endswith("*") else len(actual) == len(wanted)
    for dimension, size in zip(wanted, actual, strict=False):
        letter, _, less = dimension.partition("-")
        size += int(less or 0)
        fits = fits and size > 0 and size == (int(letter) if letter.isdigit() else sizes.setdefault(letter, size))
    if not fits:
        known = ", ".join(f"{letter} = {size}" for letter, size in sizes.items())
        raise NotWhole(
            f"the tensor {name!r} has shape {actual}, and should have ({shape})" + f", with {known}" * bool(known)
        )
