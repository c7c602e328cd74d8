"""What a run was shown, and how it learnt, as pictures."""

import csv
import hashlib
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from efftune import files
from efftune.data import augmentation, images
from efftune.data.images import Pixels
from efftune.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 9
_COLUMNS = 3
_FINE = 40  # points of a curve, up to which each is marked


def draw(
    folder: Path, paths: Sequence[Path], labels: Sequence[str], recipe: Recipe, image_size: int
) -> None:
    """Draw the pictures in a run's `plots`, as the public Keras example shows them.

    `samples.png`: nine training pictures with their classes. `augmented.png`: nine views of the
    first of them. `accuracy.png`: accuracy after each epoch, of each stage.

    Args:
        folder: of the run; its `history.csv` has been written.
        paths: the training pictures.
        labels: their class names.
        recipe: how pictures become squares, and how far views go.
        image_size: side of the squares, in pixels.
    """
    chosen = np.random.default_rng(recipe.seed).permutation(len(paths))[:_SHOWN]
    contents = [images.read(paths[i]) for i in chosen]
    shown = [images.decode(content, image_size, recipe.fit) for content in contents]
    titles = [labels[i] for i in chosen]
    _grid(folder / "plots" / "samples.png", shown, titles)
    digest = hashlib.sha256(contents[0]).digest()
    views = [
        augmentation.plan(recipe.seed, digest, number, *recipe.views_shown)
        for number in range(1, _SHOWN + 1)
    ]
    varied = [augmentation.apply(shown[0], view) for view in views]
    _grid(folder / "plots" / "augmented.png", varied, titles[:1] * _SHOWN)
    _curves(folder / "plots" / "accuracy.png", folder / "history.csv")


def _grid(path: Path, pictures: Sequence[Pixels], titles: Sequence[str]) -> None:
    rows = math.ceil(len(pictures) / _COLUMNS)
    figure = _figure(7.2, 2.6 * rows)
    places = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for place in places:
        place.axis("off")
    for place, picture, title in zip(places, pictures, titles, strict=False):
        place.imshow(picture)
        # Names are the user's: a dollar sign in one begins no formula.
        place.set_title(title, fontsize=10, parse_math=False)
    _write(figure, path)


def _curves(path: Path, history: Path) -> None:
    with history.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    stages = [list(part) for _, part in itertools.groupby(rows, lambda row: row["stage"])]
    figure = _figure(1.2 + 3.8 * len(stages), 3.6)
    places = figure.subplots(1, len(stages), sharey=True, squeeze=False)[0]
    for place, part in zip(places, stages, strict=True):
        epochs = [int(row["epoch"]) for row in part]
        marker = "." if len(part) <= _FINE else None
        for column, name in (("accuracy", "train, as trained"), ("val_accuracy", "validation")):
            place.plot(epochs, [float(row[column]) for row in part], marker=marker, label=name)
        place.set(title=part[0]["stage"], xlabel="epoch")
        place.xaxis.get_major_locator().set_params(integer=True)
        place.grid(alpha=0.3)
    places[0].set_ylabel("accuracy")
    places[-1].legend(loc="lower right", frameon=False)
    _write(figure, path)


def _figure(width: float, height: float) -> "Figure":
    """A figure without a window, whatever the user's Matplotlib is set to."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _write(figure: "Figure", path: Path) -> None:
    with files.written_whole(path) as partial:
        figure.savefig(partial, dpi=120)
