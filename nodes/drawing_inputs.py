"""The sampling widgets that nodes which draw have alike."""

from __future__ import annotations

from comfy_api.latest import io

from . import host


def size_inputs() -> list[io.Input]:
    """Width and height."""
    return [
        io.Int.Input(
            "width", default=512, min=16, max=8192, step=8, tooltip="Width of the pictures; best the model's own size."
        ),
        io.Int.Input("height", default=512, min=16, max=8192, step=8, tooltip="Height of the pictures."),
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
