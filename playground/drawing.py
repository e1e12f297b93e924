"""The playground's world: shapes x colours x fills on a pale background, and the captions that name them.

Every picture has exactly one shape, so a judge can say of each factor whether it is there. Fills lie on the picture's
own 8 pixel grid (period 16), which is also the grid of the latent: an autoencoder with four channels per 8x8 patch can
then carry them, where finer patterns are lost before the diffusion model sees them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SIZE = 64
SHAPES = ("circle", "oval", "ring", "square", "diamond", "triangle", "star", "cross")
COLOURS = {
    "red": (225, 25, 30),
    "green": (20, 165, 45),
    "blue": (30, 60, 230),
    "yellow": (245, 215, 0),
    "pink": (245, 100, 215),
    "teal": (0, 190, 205),
    "black": (20, 20, 20),
    "gray": (130, 130, 130),
}
FILLS = ("solid", "striped", "checked")
SYNONYMS = {"circle": "disc", "ring": "hoop", "square": "box", "triangle": "wedge", "cross": "plus"}
LOOK_ALIKES = {
    "circle": ("oval", "ring"),
    "oval": ("circle",),
    "ring": ("circle",),
    "square": ("diamond",),
    "diamond": ("square",),
    "triangle": ("star",),
    "star": ("triangle", "cross"),
    "cross": ("star",),
}
GENERIC_SHAPES = ("shape", "thing")
TEMPLATES = ("{}", "a {}", "a picture of a {}", "a drawing of a {}")
BACKGROUND = 0.94


@dataclass(frozen=True)
class Scene:
    """One batch of drawings: indices into SHAPES, COLOURS and FILLS, centres and radii in pixels, each of shape (n,)."""

    shape: Tensor
    colour: Tensor
    fill: Tensor
    centre_x: Tensor
    centre_y: Tensor
    radius: Tensor


def random_scene(n: int, generator: torch.Generator, shapes: tuple[int, ...] | None = None) -> Scene:
    """n random drawings; `shapes` limits which shape indices may occur (all of them if None)."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    allowed = torch.tensor(shapes if shapes is not None else range(len(SHAPES)))
    return Scene(
        shape=allowed[torch.randint(len(allowed), (n,), generator=generator)],
        colour=torch.randint(len(COLOURS), (n,), generator=generator),
        fill=torch.randint(len(FILLS), (n,), generator=generator),
        centre_x=SIZE / 2 + uniform(-4, 4),
        centre_y=SIZE / 2 + uniform(-4, 4),
        radius=uniform(20, 25),
    )


def _five_pointed_star(x: Tensor, y: Tensor, inner: float = 0.42) -> Tensor:
    """Negative inside a star with its tips on the unit circle; fold the angle, then one straight edge is left."""
    angle = torch.atan2(x, y)
    sector = 2 * torch.pi / 5
    folded = (torch.remainder(angle + sector / 2, sector) - sector / 2).abs()
    length = torch.hypot(x, y)
    px, py = length * torch.cos(folded), length * torch.sin(folded)
    # the edge runs from the tip (1, 0) to the inner corner at half a sector
    cx, cy = inner * torch.cos(torch.tensor(sector / 2)), inner * torch.sin(torch.tensor(sector / 2))
    normal = torch.stack([cy, 1 - cx]) / torch.hypot(cy, 1 - cx)
    return (px - 1) * normal[0] + py * normal[1]


def signed_distance(name: str, x: Tensor, y: Tensor) -> Tensor:
    """Distance to the outline of shape `name` in units of its radius (negative inside), y pointing up."""
    ax, ay = x.abs(), y.abs()
    if name == "circle":
        return torch.hypot(x, y) - 1
    if name == "oval":
        return (torch.hypot(x, y / 0.55) - 1) * 0.6
    if name == "ring":
        return (torch.hypot(x, y) - 0.75).abs() - 0.25
    if name == "square":
        return torch.maximum(ax, ay) - 0.85
    if name == "diamond":
        return (ax + ay - 1.12) / 2**0.5
    if name == "triangle":
        return torch.maximum(ax * 0.866 + (y + 0.1) * 0.5, -(y + 0.1)) - 0.62
    if name == "star":
        return _five_pointed_star(x, y / 1.0) * 1.1
    if name == "cross":
        return torch.minimum(torch.maximum(ax - 1, ay - 0.36), torch.maximum(ay - 1, ax - 0.36))
    raise ValueError(f"unknown shape {name!r}; the playground draws {', '.join(SHAPES)}")


def draw(scene: Scene) -> Tensor:
    """Pictures of shape (n, 3, 64, 64) in [0, 1], antialiased over one pixel."""
    distance = _distances(scene)
    inside = (0.5 - distance).clamp(0, 1)
    outline = (0.5 - (distance.abs() - 1.5)).clamp(0, 1)

    cell = torch.div(torch.arange(SIZE), 8, rounding_mode="floor") % 2
    solid = torch.ones(SIZE, SIZE)
    striped = cell[:, None].expand(SIZE, SIZE).float()
    checked = ((cell[:, None] + cell[None, :]) % 2).float()
    patterns = torch.stack([solid, striped, checked])

    ink = (torch.maximum(patterns[scene.fill], outline) * inside)[:, None]
    palette = torch.tensor(list(COLOURS.values())) / 255
    return BACKGROUND * (1 - ink) + palette[scene.colour][:, :, None, None] * ink


def _distances(scene: Scene) -> Tensor:
    """The distance of each pixel (n, 64, 64) to the outline of its picture's shape, in pixels, negative inside."""
    grid = torch.arange(SIZE) + 0.5
    dx = grid[None, None, :] - scene.centre_x[:, None, None]
    dy = scene.centre_y[:, None, None] - grid[None, :, None]
    radius = scene.radius[:, None, None]
    x, y = torch.broadcast_tensors(dx / radius, dy / radius)
    distance = torch.empty_like(x)
    for index, name in enumerate(SHAPES):
        chosen = scene.shape == index
        distance[chosen] = signed_distance(name, x[chosen], y[chosen])
    return distance * radius


def foreground(scene: Scene) -> Tensor:
    """Mask (n, 1, 64, 64), one where the picture differs from the bare background, two pixels around it included."""
    changed = (draw(scene) - BACKGROUND).abs().amax(1, keepdim=True) > 0.02
    return torch.nn.functional.max_pool2d(changed.float(), 5, stride=1, padding=2)


def caption(scene: Scene, index: int, generator: torch.Generator, drop: float = 0.1) -> str:
    """A caption of drawing `index`: a template around fill, colour and shape, of which words may be left out.

    With probability `drop` it is empty, so that the model learns the unconditional prediction that guidance needs.
    """

    def chance(probability: float) -> bool:
        return float(torch.rand((), generator=generator)) < probability

    if chance(drop):
        return ""
    shape = SHAPES[int(scene.shape[index])]
    if shape in SYNONYMS and chance(0.35):
        shape = SYNONYMS[shape]
    if chance(0.12):
        shape = GENERIC_SHAPES[int(torch.randint(len(GENERIC_SHAPES), (), generator=generator))]
    words = []
    if not chance(0.35):
        words.append(FILLS[int(scene.fill[index])])
    if not chance(0.25):
        words.append(list(COLOURS)[int(scene.colour[index])])
    template = TEMPLATES[int(torch.randint(len(TEMPLATES), (), generator=generator))]
    return template.format(" ".join([*words, shape]))
