"""The sample's pictures: a motif in one of five drawing styles, over a background that means nothing.

What counts for behaviour is the motif and, less, the style. Palette, light, place, size, tilt, background and small
ornaments vary freely, so that pictures which look alike at first sight are not the ones that belong together.
Drawn three times as large and reduced; JPEG by Pillow's bundled library is bit-exact for one version of Pillow. No
fonts are used, and of arithmetic only what IEEE 754 fixes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from notellm2.sample.motifs import DRAWINGS, Layer, Point, Role
from notellm2.sample.text import chance, pick

SIZE = 112  # pixels a side
ZOOM = 3
CANVAS = SIZE * ZOOM
QUALITY = 88  # JPEG; about 5 kB a picture

Colour = tuple[int, int, int]
Placed = list[tuple[Role, list[Point], int]]

PALETTES: dict[str, tuple[Colour, Colour, Colour, Colour]] = {  # paper, main, accent, dark
    "sun": ((253, 241, 206), (240, 170, 50), (226, 110, 66), (92, 60, 40)),
    "wave": ((220, 238, 246), (44, 120, 178), (104, 178, 208), (26, 50, 88)),
    "leaf": ((232, 244, 218), (84, 150, 82), (168, 190, 80), (40, 72, 48)),
    "cup": ((240, 230, 218), (150, 98, 66), (206, 160, 114), (64, 44, 36)),
    "cat": ((238, 236, 234), (124, 122, 130), (236, 148, 120), (46, 44, 52)),
    "mountain": ((224, 242, 236), (40, 134, 128), (124, 160, 158), (28, 64, 72)),
    "house": ((250, 228, 218), (204, 76, 62), (122, 64, 66), (70, 34, 40)),
    "moon": ((230, 226, 248), (98, 84, 176), (238, 204, 104), (38, 34, 86)),
    "fish": ((222, 246, 244), (238, 116, 84), (58, 176, 176), (30, 70, 84)),
    "flower": ((250, 226, 238), (212, 88, 148), (248, 196, 96), (84, 40, 76)),
}
"""Palettes by the motif that often comes in them: many a leaf is green, but not every green thing is a leaf."""
SHARE_USUAL_PALETTE = 60  # per cent; the others take any palette


def draw(rng: np.random.Generator, motif: str, style: str) -> bytes:
    """Draw one picture and encode it as a JPEG of `SIZE` × `SIZE` pixels, RGB.

    Args:
        rng: source of everything that does not matter (palette, place, light, background, ornaments).
        motif: a key of `motifs.DRAWINGS`.
        style: one of `STYLES`.
    """
    colours = _colours(rng, motif)
    canvas = _background(rng, colours)
    _ornaments(rng, canvas, colours)
    STYLES[style](rng, canvas, _place(rng, DRAWINGS[motif]()), colours)
    small = _grain(rng, canvas.reduce(ZOOM))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=QUALITY, subsampling=0)
    return out.getvalue()


def _colours(rng: np.random.Generator, motif: str) -> dict[Role, Colour]:
    """A palette with each channel moved a little; sometimes by night: paper and ink change places."""
    palette = PALETTES[motif if chance(rng, SHARE_USUAL_PALETTE) else pick(rng, tuple(PALETTES))]
    paper, main, accent, dark = (_shift(rng, colour, 16) for colour in palette)
    if chance(rng, 12):
        paper, dark = dark, paper
        main, accent = (_mix(colour, (255, 255, 255), 30) for colour in (main, accent))  # else lost in the night
    if chance(rng, 20):
        main, accent = accent, main
    return {"pale": paper, "main": main, "accent": accent, "dark": dark}


def _shift(rng: np.random.Generator, colour: Colour, most: int) -> Colour:
    r, g, b = (min(255, max(0, channel + int(rng.integers(-most, most + 1)))) for channel in colour)
    return r, g, b


def _mix(a: Colour, b: Colour, per_cent: int) -> Colour:
    r, g, bl = ((x * (100 - per_cent) + y * per_cent) // 100 for x, y in zip(a, b, strict=True))
    return r, g, bl


def _background(rng: np.random.Generator, colours: dict[Role, Colour]) -> Image.Image:
    """Plain paper, a vertical gradient, a horizon or a large blob, in pale tints of the palette."""
    paper = colours["pale"]
    tint = _mix(paper, colours[pick(rng, ("main", "accent", "dark"))], int(rng.integers(12, 34)))
    canvas = Image.new("RGB", (CANVAS, CANVAS), paper)
    pen = ImageDraw.Draw(canvas)
    kind = int(rng.integers(4))
    if kind == 1:
        for y in range(CANVAS):
            pen.line(((0, y), (CANVAS, y)), fill=_mix(paper, tint, 100 * y // CANVAS))
    elif kind == 2:
        horizon = int(rng.integers(CANVAS // 3, CANVAS * 4 // 5))
        pen.rectangle((0, horizon, CANVAS, CANVAS), fill=tint)
    elif kind == 3:
        x, y = (int(v) for v in rng.integers(0, CANVAS, 2))
        radius = int(rng.integers(CANVAS // 4, CANVAS // 2))
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tint)
    return canvas


def _ornaments(rng: np.random.Generator, canvas: Image.Image, colours: dict[Role, Colour]) -> None:
    """A few small shapes that belong to nothing: dots, rings, bars and diamonds."""
    pen = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(0, 6))):
        x, y = (int(v) for v in rng.integers(0, CANVAS, 2))
        r = int(rng.integers(CANVAS // 50, CANVAS // 18))
        colour = _mix(colours["pale"], colours[pick(rng, ("main", "accent", "dark"))], int(rng.integers(40, 90)))
        shape = int(rng.integers(4))
        if shape == 0:
            pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        elif shape == 1:
            pen.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=CANVAS // 80)
        elif shape == 2:
            pen.rectangle((x - r, y - r // 3, x + r, y + r // 3), fill=colour)
        else:
            pen.polygon(((x, y - r), (x + r, y), (x, y + r), (x - r, y)), fill=colour)


def _place(rng: np.random.Generator, layers: list[Layer]) -> Placed:
    """Size, tilt, mirror and shift a motif into canvas pixels; corners rounded to a tenth of a pixel."""
    scale = CANVAS * int(rng.integers(390, 455)) / 1000
    tilt = int(rng.integers(-9, 10)) / 57.3
    cos, sin = round(math.cos(tilt), 6), round(math.sin(tilt), 6)
    mirror = -1 if chance(rng, 50) else 1
    room = CANVAS / 2 - scale * 1.02
    dx, dy = (CANVAS / 2 + room * int(v) / 100 for v in rng.integers(-90, 91, 2))
    placed: Placed = []
    for layer in layers:
        points = [
            (round(dx + scale * (mirror * x * cos - y * sin), 1), round(dy + scale * (mirror * x * sin + y * cos), 1))
            for x, y in layer.points
        ]
        placed.append((layer.role, points, max(1, round(layer.width * scale)) if layer.width else 0))
    return placed


def _mask(points: list[Point], width: int) -> Image.Image:
    mask = Image.new("L", (CANVAS, CANVAS), 0)
    pen = ImageDraw.Draw(mask)
    if width:
        pen.line(points, fill=255, width=width, joint="curve")
    else:
        pen.polygon(points, fill=255)
    return mask


def _flat(_: np.random.Generator, canvas: Image.Image, placed: Placed, colours: dict[Role, Colour]) -> None:
    """Even areas of colour without outline."""
    pen = ImageDraw.Draw(canvas)
    for role, points, width in placed:
        if width:
            pen.line(points, fill=colours[role], width=width, joint="curve")
        else:
            pen.polygon(points, fill=colours[role])


def _line(rng: np.random.Generator, canvas: Image.Image, placed: Placed, colours: dict[Role, Colour]) -> None:
    """Ink outlines over bare paper, of one thickness a picture."""
    pen = ImageDraw.Draw(canvas)
    ink = CANVAS * int(rng.integers(16, 26)) // 1000
    for role, points, width in placed:
        if width:
            pen.line(points, fill=colours["dark"], width=ink, joint="curve")
        else:
            fill = _mix(colours["pale"], colours[role], 25 if role != "dark" else 90)
            pen.polygon(points, fill=fill)
            pen.line([*points, points[0], points[1]], fill=colours["dark"], width=ink, joint="curve")


def _hatched(pattern: Image.Image, canvas: Image.Image, placed: Placed, colours: dict[Role, Colour]) -> None:
    """Paint each layer as a tint with `pattern` (an L mask) in its full colour over it."""
    for role, points, width in placed:
        mask = _mask(points, width)
        if width or role in ("dark", "pale"):
            canvas.paste(colours[role], (0, 0), mask)
        else:
            canvas.paste(_mix(colours["pale"], colours[role], 28), (0, 0), mask)
            canvas.paste(colours[role], (0, 0), ImageChops.multiply(mask, pattern))


def _stipple(rng: np.random.Generator, canvas: Image.Image, placed: Placed, colours: dict[Role, Colour]) -> None:
    """Dots on a jittered grid."""
    pattern = Image.new("L", (CANVAS, CANVAS), 0)
    pen = ImageDraw.Draw(pattern)
    step = int(rng.integers(13, 18))
    jitter = rng.integers(-3, 4, (CANVAS // step + 2, CANVAS // step + 2, 3))
    for i, row in enumerate(jitter.tolist()):
        for j, (u, v, w) in enumerate(row):
            x, y, r = j * step + (i % 2) * step // 2 + u, i * step + v, step * 3 // 8 + w // 2
            pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
    _hatched(pattern, canvas, placed, colours)


def _stripes(rng: np.random.Generator, canvas: Image.Image, placed: Placed, colours: dict[Role, Colour]) -> None:
    """Parallel stripes, upright, level or slanting."""
    pattern = Image.new("L", (CANVAS, CANVAS), 0)
    pen = ImageDraw.Draw(pattern)
    step = int(rng.integers(16, 24))
    lean = pick(rng, (0, CANVAS // 2, CANVAS, -CANVAS // 2))
    for x in range(-CANVAS, 2 * CANVAS, step):
        pen.line(((x, 0), (x + lean, CANVAS)), fill=255, width=step // 2)
    if chance(rng, 30):
        pattern = pattern.transpose(Image.Transpose.ROTATE_90)
    _hatched(pattern, canvas, placed, colours)


def _wash(rng: np.random.Generator, canvas: Image.Image, placed: Placed, colours: dict[Role, Colour]) -> None:
    """Watercolour: soft layers, a little beside each other, that add up."""
    for role, points, width in placed:
        mask = _mask(points, width)
        for strength in (55, 45, 40) if role != "pale" else (75,):
            dx, dy = (int(v) for v in rng.integers(-CANVAS // 70, CANVAS // 70 + 1, 2))
            soft = ImageChops.offset(mask, dx, dy).filter(ImageFilter.BoxBlur(CANVAS // 150 + 1))
            weight = soft.point([value * strength // 100 for value in range(256)])
            canvas.paste(_shift(rng, colours[role], 14), (0, 0), weight)


STYLES: dict[str, Callable[[np.random.Generator, Image.Image, Placed, dict[Role, Colour]], None]] = {
    "flat": _flat,
    "line": _line,
    "stipple": _stipple,
    "stripes": _stripes,
    "wash": _wash,
}


def _grain(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Brightness between 82 and 112 per cent, and a grain of a few grey levels."""
    light = int(rng.integers(82, 113))
    pixels = np.asarray(image, dtype=np.int32) * light // 100
    grain = rng.integers(-5, 6, (SIZE, SIZE, 1), dtype=np.int32)
    return Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))
