"""The sample's motifs as polygons: what its little pictures show.

A motif is a list of layers, painted in order, in a square from -1 to 1 with y pointing down. Curves are polygons
whose corners are rounded to a ten-thousandth, so that the last bit of a platform's sine cannot move a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

Point = tuple[float, float]
Role = Literal["main", "accent", "dark", "pale"]


class Layer(NamedTuple):
    """A filled polygon, or with `width` > 0 (in units of the square) an open stroke through its points."""

    role: Role
    points: tuple[Point, ...]
    width: float = 0.0


def _point(x: float, y: float) -> Point:
    return round(x, 4), round(y, 4)


def _ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0, corners: int = 36) -> tuple[Point, ...]:
    """An ellipse with half axes `rx`, `ry`, turned by `turn` radians."""
    points = []
    for k in range(corners):
        u, v = rx * math.cos(2 * math.pi * k / corners), ry * math.sin(2 * math.pi * k / corners)
        points.append(_point(x + u * math.cos(turn) - v * math.sin(turn), y + u * math.sin(turn) + v * math.cos(turn)))
    return tuple(points)


def _arc(center: Point, radii: Point, start: float, end: float, corners: int = 16) -> tuple[Point, ...]:
    """Part of an ellipse, from `start` to `end` in radians, as an open line."""
    (x, y), (rx, ry) = center, radii
    angles = [start + (end - start) * k / corners for k in range(corners + 1)]
    return tuple(_point(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles)


def _sun() -> list[Layer]:
    layers = []
    for k in range(10):
        a, half = 2 * math.pi * k / 10, 0.17
        near = [(0.62 * math.cos(a + s), 0.62 * math.sin(a + s)) for s in (-half, half)]
        tip = (math.cos(a), math.sin(a))
        layers.append(Layer("accent", tuple(_point(x, y) for x, y in (*near, tip))))
    return [*layers, Layer("main", _ellipse(0, 0, 0.5, 0.5))]


def _wave() -> list[Layer]:
    layers = []
    roles: tuple[Role, ...] = ("accent", "main", "accent")
    for row, role in enumerate(roles):
        base = -0.55 + 0.5 * row
        steps = [k / 32 for k in range(33)]
        # Cusped crests rather than a plain sine: they read as water at 64 pixels.
        top = [_point(-1 + 2 * s, base - 0.3 * abs(math.sin(math.pi * (2.5 * s + 0.25 * row)))) for s in steps]
        bottom = [_point(x, min(y + 0.36, 0.95)) for x, y in reversed(top)]
        layers.append(Layer(role, (*top, *bottom)))
    return layers


def _leaf() -> list[Layer]:
    steps = [k / 16 for k in range(17)]
    right = [_point(0.55 * math.sin(math.pi * s) ** 0.8, -1 + 1.6 * s) for s in steps]
    left = [(-x, y) for x, y in reversed(right)]
    layers = [Layer("dark", ((0.0, 0.55), (0.08, 1.0)), 0.09), Layer("main", (*right, *left))]
    layers.append(Layer("pale", ((0.0, -0.8), (0.0, 0.55)), 0.06))
    for y in (-0.45, -0.1, 0.25):
        layers += [Layer("pale", (_point(0.0, y + 0.2), _point(side * 0.33, y - 0.05)), 0.05) for side in (-1, 1)]
    return layers


def _cup() -> list[Layer]:
    body = ((-0.65, -0.25), (0.5, -0.25), (0.42, 0.45), (0.2, 0.7), (-0.35, 0.7), (-0.57, 0.45))
    layers = [
        Layer("accent", _ellipse(-0.08, 0.78, 0.8, 0.14)),
        Layer("main", _arc((0.52, 0.1), (0.33, 0.28), -1.9, 1.9), 0.13),
        Layer("main", body),
        Layer("dark", _ellipse(-0.075, -0.25, 0.575, 0.1)),
    ]
    for x in (-0.35, -0.05, 0.25):
        line = tuple(_point(x + 0.08 * math.sin(k * 0.8), -0.45 - 0.06 * k) for k in range(9))
        layers.append(Layer("accent", line, 0.07))
    return layers


def _cat() -> list[Layer]:
    layers = []
    for side in (-1, 1):
        layers.append(Layer("main", ((side * 0.8, -0.95), (side * 0.72, 0.0), (side * 0.12, -0.5))))
        layers.append(Layer("accent", ((side * 0.68, -0.7), (side * 0.62, -0.3), (side * 0.38, -0.48))))
    layers.append(Layer("main", _ellipse(0, 0.15, 0.8, 0.68)))
    for side in (-1, 1):
        layers.append(Layer("dark", _ellipse(side * 0.33, 0.02, 0.11, 0.15)))
        layers += [
            Layer("dark", (_point(side * 0.35, 0.36 + d), _point(side * 0.98, 0.28 + 2 * d)), 0.045) for d in (0.0, 0.1)
        ]
    layers.append(Layer("accent", ((-0.11, 0.25), (0.11, 0.25), (0.0, 0.38))))
    layers.append(Layer("dark", ((-0.18, 0.5), (0.0, 0.42), (0.18, 0.5)), 0.05))
    return layers


def _mountain() -> list[Layer]:
    return [
        Layer("accent", ((-0.1, 0.75), (0.5, -0.4), (1.0, 0.75))),
        Layer("main", ((-1.0, 0.75), (-0.25, -0.85), (0.5, 0.75))),
        Layer("pale", ((-0.47, -0.38), (-0.25, -0.85), (-0.03, -0.38), (-0.16, -0.26), (-0.26, -0.4), (-0.36, -0.24))),
        Layer("pale", ((0.34, -0.09), (0.5, -0.4), (0.64, -0.09), (0.52, 0.0), (0.45, -0.1))),
        Layer("dark", ((-1.0, 0.78), (1.0, 0.78)), 0.08),
    ]


def _house() -> list[Layer]:
    return [
        Layer("dark", ((0.35, -0.9), (0.55, -0.9), (0.55, -0.3), (0.35, -0.3))),
        Layer("main", ((-0.65, -0.1), (0.65, -0.1), (0.65, 0.85), (-0.65, 0.85))),
        Layer("accent", ((-0.9, -0.05), (0.0, -0.9), (0.9, -0.05))),
        Layer("dark", ((-0.42, 0.3), (-0.1, 0.3), (-0.1, 0.85), (-0.42, 0.85))),
        Layer("pale", ((0.1, 0.15), (0.45, 0.15), (0.45, 0.5), (0.1, 0.5))),
        Layer("dark", ((0.275, 0.15), (0.275, 0.5)), 0.04),
    ]


def _moon() -> list[Layer]:
    outer = _arc((-0.05, 0.0), (0.9, 0.9), -0.9, -2 * math.pi + 0.9, 30)
    inner = _arc((0.32, 0.0), (0.72, 0.72), 1.38, 2 * math.pi - 1.38, 24)
    star = tuple(
        _point(0.55 + r * math.sin(k * math.pi / 5), -0.05 - r * math.cos(k * math.pi / 5))
        for k, r in ((k, 0.3 if k % 2 == 0 else 0.12) for k in range(10))
    )
    return [Layer("main", (*outer, *inner)), Layer("accent", star)]


def _fish() -> list[Layer]:
    return [
        Layer("accent", ((0.45, 0.0), (1.0, -0.5), (0.85, 0.0), (1.0, 0.5))),
        Layer("accent", ((-0.2, -0.35), (0.15, -0.75), (0.35, -0.25))),
        Layer("main", _ellipse(-0.2, 0.0, 0.78, 0.45)),
        Layer("pale", _arc((-0.55, 0.0), (0.2, 0.36), -1.2, 1.2), 0.06),
        Layer("pale", _arc((0.0, 0.0), (0.14, 0.22), -1.2, 1.2), 0.05),
        Layer("pale", _arc((0.25, 0.0), (0.12, 0.18), -1.2, 1.2), 0.05),
        Layer("dark", _ellipse(-0.68, -0.1, 0.09, 0.09)),
    ]


def _flower() -> list[Layer]:
    layers = [
        Layer("dark", ((0.0, 0.0), (0.04, 0.5), (0.0, 1.0)), 0.09),
        Layer("dark", _ellipse(0.27, 0.68, 0.26, 0.1, -0.6)),
    ]
    for k in range(6):
        a = 2 * math.pi * k / 6
        layers.append(Layer("main", _ellipse(0.38 * math.cos(a), -0.3 + 0.38 * math.sin(a), 0.3, 0.19, a)))
    return [*layers, Layer("accent", _ellipse(0, -0.3, 0.2, 0.2))]


DRAWINGS: dict[str, Callable[[], list[Layer]]] = {
    "sun": _sun,
    "wave": _wave,
    "leaf": _leaf,
    "cup": _cup,
    "cat": _cat,
    "mountain": _mountain,
    "house": _house,
    "moon": _moon,
    "fish": _fish,
    "flower": _flower,
}
MOTIFS = tuple(DRAWINGS)
