"""Pictures made by code: each shows its prompt and looks like no other."""

from __future__ import annotations

import colorsys
import io
import math
import random
import textwrap
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw, ImageFont

FORMATS = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
_Color = tuple[int, int, int]


def dimensions(aspect_ratio: str, longest: int) -> tuple[int, int]:
    """Width and height in pixels for an aspect ratio such as `16:9`; square for `default`."""
    try:
        across, down = (float(part) for part in aspect_ratio.split(":"))
        scale = longest / max(across, down)
        return max(32, round(across * scale)), max(32, round(down * scale))
    except (ValueError, ZeroDivisionError):
        return longest, longest


def draw(
    prompt: str,
    *,
    seed: str,
    aspect_ratio: str = "default",
    longest: int = 1024,
    references: Sequence[str] = (),
    image_format: str = "png",
) -> bytes:
    """Draw a picture for a prompt.

    Args:
        prompt: What stands below the picture.
        seed: Decides on colours and shapes.
        aspect_ratio: As `16:9`.
        longest: The longer side in pixels.
        references: Addresses of reference images; each appears as a framed inset of its own colours,
            as the sandbox fetches nothing.
        image_format: `png`, `jpeg` or `webp`.

    Returns:
        The picture's bytes.
    """
    width, height = dimensions(aspect_ratio, longest)
    picture = _scene(random.Random(seed), width, height)
    for place, url in enumerate(references[:4]):
        side = min(width, height) // 5
        inset = _scene(random.Random(url), side, side)
        framed = Image.new("RGB", (side + 8, side + 8), "white")
        framed.paste(inset, (4, 4))
        picture.paste(framed, (16 + place * (side + 20), 16))
    _caption(picture, prompt)
    out = io.BytesIO()
    picture.save(out, image_format.upper(), quality=88)
    return out.getvalue()


def _scene(chance: random.Random, width: int, height: int) -> Image.Image:
    hue = chance.random()
    top = _color(hue, 0.55, chance.uniform(0.35, 0.95))
    bottom = _color(hue + chance.uniform(0.08, 0.3), 0.45, 0.98)
    strip = Image.new("RGB", (1, 64))
    for row in range(64):
        strip.putpixel((0, row), _mix(top, bottom, row / 63))
    picture = strip.resize((width, height), Image.Resampling.BICUBIC)
    draw_on = ImageDraw.Draw(picture, "RGBA")
    radius = min(width, height) * chance.uniform(0.07, 0.16)
    x, y = width * chance.uniform(0.2, 0.8), height * chance.uniform(0.15, 0.4)
    for halo, alpha in ((2.2, 40), (1.5, 70), (1.0, 255)):
        r = radius * halo
        draw_on.ellipse((x - r, y - r, x + r, y + r), fill=(255, 250, 225, alpha))
    scenes: list[Callable[[ImageDraw.ImageDraw, random.Random, float, int, int], None]] = [
        _hills,
        _city,
        _sea,
        _confetti,
    ]
    chance.choice(scenes)(draw_on, chance, hue, width, height)
    return picture


def _hills(d: ImageDraw.ImageDraw, chance: random.Random, hue: float, w: int, h: int) -> None:
    for layer in range(4):
        base, swing = h * (0.5 + 0.12 * layer), h * chance.uniform(0.03, 0.09)
        wave, shift = chance.uniform(1.5, 4), chance.uniform(0, 6.28)
        line = [
            (
                x,
                base
                + swing * math.sin(wave * math.tau * x / w + shift)
                + swing * 0.4 * math.sin(x / 23),
            )
            for x in range(0, w + 8, 8)
        ]
        color = _color(hue + 0.45 + 0.04 * layer, 0.5, 0.75 - 0.15 * layer)
        d.polygon([(0, h), *line, (w, h)], fill=color)


def _city(d: ImageDraw.ImageDraw, chance: random.Random, hue: float, w: int, h: int) -> None:
    for layer in range(3):
        x, color = 0.0, _color(hue + 0.5, 0.4, 0.6 - 0.18 * layer)
        while x < w:
            wide, tall = w * chance.uniform(0.04, 0.1), h * chance.uniform(0.12, 0.42 - 0.06 * layer)
            top = h * 0.92 - tall
            d.rectangle((x, top, x + wide, h), fill=color)
            for wx in range(int(x) + 6, int(x + wide) - 8, 14):
                for wy in range(int(top) + 8, int(h * 0.9), 20):
                    if chance.random() < 0.4:
                        d.rectangle((wx, wy, wx + 5, wy + 8), fill=(255, 226, 140, 220))
            x += wide * chance.uniform(0.9, 1.2)


def _sea(d: ImageDraw.ImageDraw, chance: random.Random, hue: float, w: int, h: int) -> None:
    d.rectangle((0, h * 0.55, w, h), fill=_color(hue + 0.55, 0.6, 0.5))
    for _ in range(90):
        y = h * chance.uniform(0.57, 1)
        x, long = chance.uniform(0, w), w * chance.uniform(0.02, 0.12)
        d.line((x, y, x + long, y), fill=(255, 255, 255, chance.randint(40, 130)), width=3)
    for _ in range(chance.randint(1, 4)):
        x, y, s = (
            chance.uniform(0.1, 0.85) * w,
            h * chance.uniform(0.56, 0.7),
            h * chance.uniform(0.05, 0.13),
        )
        d.polygon(
            [(x, y), (x + s, y), (x + s * 0.8, y + s * 0.2), (x + s * 0.2, y + s * 0.2)],
            fill=(60, 40, 40),
        )
        d.polygon([(x + s / 2, y - s), (x + s / 2, y - 4), (x + s, y - 4)], fill=(250, 245, 235))


def _confetti(d: ImageDraw.ImageDraw, chance: random.Random, hue: float, w: int, h: int) -> None:
    for _ in range(46):
        x, y, r = chance.uniform(0, w), chance.uniform(0, h), min(w, h) * chance.uniform(0.02, 0.12)
        fill = (*_color(hue + chance.uniform(-0.2, 0.5), 0.65, 0.95), chance.randint(90, 210))
        corners = chance.choice((3, 4, 5, 6, 0))
        if corners:
            d.regular_polygon((x, y, r), corners, rotation=chance.randint(0, 360), fill=fill)
        else:
            d.ellipse((x - r, y - r, x + r, y + r), fill=fill)


def _caption(picture: Image.Image, prompt: str) -> None:
    width, height = picture.size
    size = max(11, min(width, height) // 24)
    font = ImageFont.load_default(size)
    lines = textwrap.wrap(prompt, max(12, int(width / (size * 0.52)))) or [""]
    if len(lines) > 5:
        lines = [*lines[:4], lines[4][:-1] + "..."]
    tall = int(len(lines) * size * 1.35 + size)
    d = ImageDraw.Draw(picture, "RGBA")
    d.rectangle((0, height - tall, width, height), fill=(12, 12, 20, 190))
    for number, line in enumerate(lines):
        d.text(
            (size * 0.8, height - tall + size * (0.45 + 1.35 * number)), line, font=font, fill="white"
        )


def _color(hue: float, saturation: float, value: float) -> _Color:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _mix(one: _Color, other: _Color, share: float) -> _Color:
    r, g, b = (round(x + (y - x) * share) for x, y in zip(one, other, strict=True))
    return r, g, b
