"""Pictures of many kinds that are not photos of clothes: what a classifier may meet in the wild.

Two photos that come with scikit-learn, in random crops; its scanned digits; and what is drawn here.
"""

import string
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from sklearn import datasets

Random = np.random.Generator

_PROSE = " ".join(f"{open.__doc__} {str.__doc__} {dict.__doc__} {zip.__doc__}".split())


def make(folder: Path, count: int, seed: int) -> list[tuple[str, Path]]:
    """Write pictures into a folder, JPEG and PNG in turns, kinds taking turns.

    Args:
        folder: exists.
        count: how many.
        seed: of all that is random; the same one gives the same pictures.

    Returns:
        The kind and the path of each.
    """
    random = np.random.default_rng(seed)
    made = []
    for i in range(count):
        kind = list(KINDS)[i % len(KINDS)]
        path = folder / f"{i:04}.{'jpg' if i // len(KINDS) % 2 else 'png'}"
        picture = KINDS[kind](random).convert("RGB")
        quality = {"quality": int(random.integers(60, 96))} if path.suffix == ".jpg" else {}
        picture.save(path, **quality)
        made.append((kind, path))
    return made


def building(random: Random) -> Image.Image:
    return _crop(datasets.load_sample_image("china.jpg"), random)


def flower(random: Random) -> Image.Image:
    return _crop(datasets.load_sample_image("flower.jpg"), random)


def digit(random: Random) -> Image.Image:
    digits = datasets.load_digits().images
    values = digits[random.integers(len(digits))] * (255 / 16)
    values = 255 - values if random.random() < 0.5 else values
    way = random.choice([Image.Resampling.NEAREST, Image.Resampling.BICUBIC])
    side = int(random.integers(96, 401))
    return Image.fromarray(values.astype(np.uint8)).resize((side, side), Image.Resampling(way))


def plot(random: Random) -> Image.Image:
    figure = Figure(figsize=tuple(random.uniform(3, 6, 2)))
    canvas = FigureCanvasAgg(figure)
    place = figure.subplots()
    values = random.normal(size=int(random.integers(5, 60))).cumsum()
    kinds: list[Callable[[], object]] = [
        lambda: place.plot(values),
        lambda: place.bar(range(len(values)), values),
        lambda: place.scatter(values, random.permutation(values)),
        lambda: place.hist(values, bins=12),
        lambda: place.pie(np.abs(values[:6]) + 0.1),
    ]
    kinds[random.integers(len(kinds))]()
    place.set(title=_word(random), xlabel=_word(random), ylabel=_word(random))
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def text(random: Random) -> Image.Image:
    width, height = random.integers(240, 520, 2).tolist()
    dark = random.random() < 0.3
    picture = Image.new("RGB", (width, height), "black" if dark else "white")
    size = int(random.integers(12, 30))
    start = int(random.integers(len(_PROSE) // 2))
    lines = textwrap.wrap(_PROSE[start:], max(8, 2 * width // size))[: height // size]
    ImageDraw.Draw(picture).text(
        (size, size),
        "\n".join(lines),
        fill="white" if dark else "black",
        font=ImageFont.load_default(size),
    )
    return picture


def noise(random: Random) -> Image.Image:
    cells, side = int(random.choice([6, 20, 80, 320])), 320
    values = random.integers(0, 256, (cells, cells, 3)).astype(np.uint8)
    if random.random() < 0.3:
        values[...] = values[..., :1]
    return Image.fromarray(values).resize((side, side), Image.Resampling.BICUBIC)


def gradient(random: Random) -> Image.Image:
    side = 320
    down, right = np.mgrid[:side, :side] / side
    if random.random() < 0.5:
        angle = random.uniform(0, 2 * np.pi)
        share = down * np.sin(angle) + right * np.cos(angle)
    else:
        centre = random.uniform(0, 1, 2)
        share = np.hypot(down - centre[0], right - centre[1])
    share = (share - share.min()) / np.ptp(share)
    first, last = random.integers(0, 256, (2, 3))
    return Image.fromarray((first + share[..., None] * (last - first)).astype(np.uint8))


def shapes(random: Random) -> Image.Image:
    side = 320
    picture = Image.new("RGB", (side, side), _colour(random))
    draw = ImageDraw.Draw(picture)
    for _ in range(random.integers(1, 9)):
        (left, top), (width, height) = random.integers(0, 240, 2), random.integers(20, 160, 2)
        box = [int(left), int(top), int(left + width), int(top + height)]
        match random.integers(4):
            case 0:
                draw.rectangle(box, fill=_colour(random))
            case 1:
                draw.ellipse(box, fill=_colour(random))
            case 2:
                draw.line(box, fill=_colour(random), width=int(random.integers(2, 14)))
            case _:
                corners = [tuple(each) for each in random.integers(0, side, (3, 2)).tolist()]
                draw.polygon(corners, fill=_colour(random))
    return picture


KINDS: dict[str, Callable[[Random], Image.Image]] = {
    "crops of a building": building,
    "crops of a flower": flower,
    "digits": digit,
    "plots": plot,
    "text": text,
    "noise": noise,
    "gradients": gradient,
    "shapes": shapes,
}


def _crop(pixels: np.ndarray, random: Random) -> Image.Image:
    """A part of a photo: a quarter of its shorter side to all of it, of any form up to 3 : 2."""
    height, width = pixels.shape[:2]
    side = random.uniform(0.25, 1) * min(height, width)
    form = random.uniform(2 / 3, 1)
    tall, wide = (side, side * form) if random.random() < 0.5 else (side * form, side)
    top, left = random.uniform(0, height - tall), random.uniform(0, width - wide)
    box = (int(left), int(top), int(left + wide), int(top + tall))
    return Image.fromarray(pixels).crop(box)


def _word(random: Random) -> str:
    return "".join(random.choice(list(string.ascii_lowercase), int(random.integers(3, 10))))


def _colour(random: Random) -> tuple[int, ...]:
    return tuple(random.integers(0, 256, 3).tolist())
