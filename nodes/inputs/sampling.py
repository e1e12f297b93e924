"""The common sampling widgets of the nodes that draw, and the checks of a node's inputs before anything runs."""

from __future__ import annotations

from collections.abc import Callable

from comfy_api.v0_0_2 import io

from .. import host

SMALLEST, LARGEST, SIZE_STEP = 16, 8192, 8
"""Of widths and heights; a model may ask for larger steps, which is seen when it is there (`host.linked.check_size`)."""


def refused(*checks: Callable[[], object]) -> bool | str:
    """The return value of `validate_inputs`: True, or the sentence of the first check that raises ValueError.

    ComfyUI calls it before it runs a workflow, and shows the sentence on the page. It gives None for an input that is
    linked: nobody knows yet what will come. An input that a node's `validate_inputs` names is not compared with its widget's
    range by ComfyUI.
    """
    for check in checks:
        try:
            check()
        except ValueError as error:
            return str(error)
    return True


def check_sizes(width: int | None, height: int | None) -> None:
    """Raise ValueError, naming it and a size near by, for a width or height that no model takes; None is passed over."""
    for name, value in (("width", width), ("height", height)):
        if value is None:
            continue
        if not SMALLEST <= value <= LARGEST:
            raise ValueError(f"{name} is {value}, outside {SMALLEST} to {LARGEST}")
        if value % SIZE_STEP:
            near = max(SMALLEST, round(value / SIZE_STEP) * SIZE_STEP)
            raise ValueError(f"{name} is {value}, which is no multiple of {SIZE_STEP}; try {near}")


def size_inputs(
    width: str = "Width of the pictures; best the model's own size.", height: str = "Height of the pictures."
) -> list[io.Input]:
    """Width and height, with these tooltips."""
    return [
        io.Int.Input(name, default=512, min=SMALLEST, max=LARGEST, step=SIZE_STEP, tooltip=tooltip)
        for name, tooltip in (("width", width), ("height", height))
    ]


def sampling_inputs() -> list[io.Input]:
    """How pictures are drawn; the meaning is KSampler's."""
    return [
        *size_inputs(),
        io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Sampling steps, as in KSampler."),
        io.Float.Input(
            "cfg", default=7.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="Guidance scale, as in KSampler."
        ),
        io.Combo.Input(
            "sampler_name",
            options=list(host.SAMPLERS),
            default="euler",
            tooltip="Sampler, as in KSampler.",
            advanced=True,
        ),
        io.Combo.Input(
            "scheduler",
            options=list(host.SCHEDULERS),
            default="normal",
            tooltip="Scheduler, as in KSampler.",
            advanced=True,
        ),
        seed_input("Seed of the first picture; the next ones count up. Same seed, same pictures."),
        io.Int.Input(
            "batch_size",
            default=8,
            min=1,
            max=256,
            tooltip="Pictures drawn at once. Lower it if memory runs out.",
            advanced=True,
        ),
    ]


def seed_input(tooltip: str) -> io.Input:
    """The seed."""
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=0xFFFFFFFFFFFFFFFF,
        control_after_generate=io.ControlAfterGenerate.fixed,
        tooltip=tooltip,
    )
