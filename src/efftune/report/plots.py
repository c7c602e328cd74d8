"""What a run was shown, and how it learnt, as pictures."""

import csv
import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from efftune.data import augmentation, images
from efftune.data.examples import SPLITS, Example
from efftune.data.images import Pixels
from efftune.data.near_duplicates import DuplicatePair
from efftune.evaluation.calibration import Calibration
from efftune.evaluation.learning_curve import LearningCurve
from efftune.evaluation.metrics import Evaluation, SplitEvaluation
from efftune.recipe.recipe import Recipe
from efftune.system import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 9
_COLUMNS = 3
_SIDE = 224  # of the squares shown, in pixels
_BARS = 60  # at most
_FINE = 40  # points of a curve, up to which each is marked
_TOLD = 40  # classes of a confusion matrix, up to which they are named
_DARK = 0.55  # share of a row, above which its cell takes white numbers


def draw(
    folder: Path, paths: Sequence[Path], labels: Sequence[str], recipe: Recipe, image_size: int
) -> None:
    """Draw the pictures in a run's `plots`, as the public Keras example shows them.

    `samples.png`: nine training pictures with their classes. `augmented.png`: nine views of the
    first of them.

    Args:
        folder: of the run.
        paths: the training pictures.
        labels: their class names.
        recipe: how pictures become squares, and how far views go.
        image_size: side of the squares, in pixels.
    """
    chosen = np.random.default_rng(recipe.seed).permutation(len(paths))[:_SHOWN]
    contents = [images.read(paths[i]) for i in chosen]
    shown = [images.decode(content, image_size, recipe.backbone.fit) for content in contents]
    titles = [labels[i] for i in chosen]
    _grid(folder / "plots" / "samples.png", shown, titles)
    digest = hashlib.sha256(contents[0]).digest()
    views = [
        augmentation.plan(recipe.seed, digest, number, *recipe.views_shown)
        for number in range(1, _SHOWN + 1)
    ]
    varied = [augmentation.apply(shown[0], view) for view in views]
    _grid(folder / "plots" / "augmented.png", varied, titles[:1] * _SHOWN)


def draw_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Draw how a run fared, in its `plots`.

    `accuracy.png`: accuracy after each epoch, of each stage. `confusion.png`: test pictures by
    class and prediction. `calibration.png`: the share of correct predictions by confidence.
    `learning_curve.png`: accuracy by the number of training pictures, where that is known.

    Args:
        folder: of the run; its `history.csv` has been written.
        evaluation: what to draw.
    """
    place = folder / "plots"
    _curves(place / "accuracy.png", folder / "history.csv")
    _confusion(place / "confusion.png", evaluation.test)
    if evaluation.calibration is not None:
        _reliability(place / "calibration.png", evaluation.calibration)
    if evaluation.learning_curve is not None:
        _learning(place / "learning_curve.png", evaluation.learning_curve)


def draw_source(
    folder: Path,
    rows: Sequence[Example],
    measurements: NDArray[np.void],
    pairs: Sequence[DuplicatePair],
) -> None:
    """Draw what is in a source, for `efftune check --out`.

    `samples.png`: nine pictures with their classes. `augmented.png`: nine views of the first.
    `sizes.png`: width and height of all. `classes.png`: pictures of each class by split.
    `duplicates.png`: copies beside their originals.

    Args:
        folder: where to.
        rows: usable pictures.
        measurements: their records, from `inspection.look`.
        pairs: copies among them.
    """
    if not rows:
        return
    chosen = _of_each_class(rows)
    shown = [_square(row) for row in chosen]
    titles = [row.label for row in chosen]
    _grid(folder / "samples.png", shown, titles)
    content = images.read(chosen[0].path)
    first, digest = images.decode(content, _SIDE, "crop"), hashlib.sha256(content).digest()
    views = [augmentation.plan(0, digest, i, "standard", "yes") for i in range(1, _SHOWN + 1)]
    varied = [augmentation.apply(first, view) for view in views]
    _grid(folder / "augmented.png", varied, titles[:1] * _SHOWN)
    _sizes(folder / "sizes.png", measurements)
    _classes(folder / "classes.png", rows)
    if pairs:
        told = [
            (rows[i], f"{rows[i].label}{text}")
            for pair in pairs[: _SHOWN - 1]
            for i, text in ((pair.first, ""), (pair.second, f", {_kind(pair)}"))
        ]
        _grid(
            folder / "duplicates.png",
            [_square(row) for row, _ in told],
            [title for _, title in told],
            columns=4,
        )


def _of_each_class(rows: Sequence[Example]) -> list[Example]:
    """Nine pictures, classes taking turns."""
    by_class: dict[str, list[Example]] = {}
    for row in rows:
        by_class.setdefault(row.label, []).append(row)
    random = np.random.default_rng(0)
    mixed = [[part[i] for i in random.permutation(len(part))] for part in by_class.values()]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*mixed))
    return list(itertools.islice((row for row in turns if row is not None), _SHOWN))


def _square(row: Example) -> Pixels:
    return images.decode(images.read(row.path), _SIDE, "pad")


def _kind(pair: DuplicatePair) -> str:
    return f"{'exact' if pair.exact else 'mirrored' if pair.mirrored else 'near'} copy"


def _sizes(path: Path, measurements: NDArray[np.void]) -> None:
    figure = new_figure(5.4, 4.6)
    place = figure.subplots()
    place.scatter(measurements["width"], measurements["height"], s=8, alpha=0.3, linewidths=0)
    place.set(xlabel="width, pixels", ylabel="height, pixels", xlim=(0, None), ylim=(0, None))
    place.set_title(f"Sizes of {len(measurements):,} pictures", fontsize=10)
    place.grid(alpha=0.3)
    save(figure, path)


def _classes(path: Path, rows: Sequence[Example]) -> None:
    """Bars of the classes, the largest first; of many only those at both ends."""
    counts = Counter(row.label for row in rows)
    ranked = [name for name, _ in counts.most_common()]
    if len(ranked) > _BARS:
        ranked = [*ranked[: _BARS // 2], *ranked[-_BARS // 2 :]]
    splits = [split for split in (*SPLITS, "") if any(row.split == split for row in rows)]
    by_split = Counter[tuple[str, str]]((row.label, row.split) for row in rows)
    figure = new_figure(7.2, 1.2 + 0.25 * len(ranked))
    place = figure.subplots()
    left = np.zeros(len(ranked))
    for split in splits:
        values = np.array([by_split[name, split] for name in ranked])
        place.barh(range(len(ranked)), values, left=left, label=split or "not split yet")
        left += values
    place.set_yticks(range(len(ranked)), ranked, parse_math=False)
    place.invert_yaxis()
    place.set_xlabel("pictures")
    left_out = len(counts) - len(ranked)
    title = f"{len(counts):,} classes" + (
        f", {left_out:,} in the middle not shown" if left_out else ""
    )
    place.set_title(title, fontsize=10)
    place.legend(loc="lower right", frameon=False)
    save(figure, path)


def _grid(
    path: Path, pictures: Sequence[Pixels], titles: Sequence[str], columns: int = _COLUMNS
) -> None:
    rows = math.ceil(len(pictures) / columns)
    figure = new_figure(2.4 * columns, 2.6 * rows)
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for place in places:
        place.axis("off")
    for place, picture, title in zip(places, pictures, titles, strict=False):
        place.imshow(picture)
        # Names are the user's: a dollar sign in one begins no formula.
        place.set_title(title, fontsize=10, parse_math=False)
    save(figure, path)


def _curves(path: Path, history: Path) -> None:
    with history.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    stages = [list(part) for _, part in itertools.groupby(rows, lambda row: row["stage"])]
    figure = new_figure(1.2 + 3.8 * len(stages), 3.6)
    places = figure.subplots(1, len(stages), sharey=True, squeeze=False)[0]
    for place, part in zip(places, stages, strict=True):
        epochs = [int(row["epoch"]) for row in part]
        marker = "." if len(part) <= _FINE else None
        for column, name in (("accuracy", "train, as trained"), ("val_accuracy", "validation")):
            place.plot(epochs, [float(row[column]) for row in part], marker=marker, label=name)
        place.set(title=part[0]["stage"], xlabel="epoch")
        place.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        place.grid(alpha=0.3)
    places[0].set_ylabel("accuracy")
    places[-1].legend(loc="lower right", frameon=False)
    save(figure, path)


def _confusion(path: Path, score: SplitEvaluation) -> None:
    """Of many classes without numbers and names: there is no room for them."""
    names = [each.name for each in score.per_class]
    counts = np.array(score.confusion)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    told = len(names) <= _TOLD
    side = 2.4 + 0.42 * len(names) if told else 9.0
    figure = new_figure(side, side)
    place = figure.subplots()
    place.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if told:
        numbers = range(len(names))
        place.set_xticks(numbers, names, rotation=90, parse_math=False)
        place.set_yticks(numbers, names, parse_math=False)
        for row, column in zip(*counts.nonzero(), strict=True):
            ink = "white" if shares[row, column] > _DARK else "black"
            text = f"{counts[row, column]:,}"
            place.text(column, row, text, ha="center", va="center", color=ink, fontsize=9)
    else:
        place.set_xticks([])
        place.set_yticks([])
    place.set(xlabel="predicted class", ylabel="true class")
    place.set_title(f"{score.pictures:,} test pictures", fontsize=10)
    save(figure, path)


def _reliability(path: Path, calibration: Calibration) -> None:
    figure = new_figure(4.8, 4.6)
    place = figure.subplots()
    for when, ece in calibration.ece["test"].items():
        bins = calibration.bins[when]
        sure, right = ([getattr(each, key) for each in bins] for key in ("confidence", "accuracy"))
        name = f"{when} calibration, ECE {ece:.3f}"
        weights = [each.pictures for each in bins]
        area = 12 + 200 * np.array(weights) / max(weights)
        place.scatter(sure, right, s=area, alpha=0.6, linewidths=0, label=name)
    place.plot([0, 1], [0, 1], color="0.6", linestyle=":", label="as sure as right")
    place.set(xlabel="confidence of the prediction", ylabel="correct predictions on test")
    place.set_title("Larger dots are more pictures", fontsize=10)
    place.set(xlim=(0, 1.04), ylim=(-0.04, 1.04))
    place.grid(alpha=0.3)
    for dot in place.legend(loc="upper left", frameon=False, fontsize=9).legend_handles[:2]:
        dot.set_sizes([40])  # type: ignore[union-attr]  # a PathCollection, as drawn above
    save(figure, path)


def _learning(path: Path, curve: LearningCurve) -> None:
    figure = new_figure(5.4, 3.8)
    place = figure.subplots()
    tried = [(each.pictures, value) for each in curve.points for value in each.accuracy]
    across, up = zip(*tried, strict=True)
    place.scatter(across, up, s=14, color="0.55", label="tried")
    ahead = (curve.now, curve.double)
    counts = [each.pictures for each in ahead]
    low, high = ([getattr(each, end) for each in ahead] for end in ("low", "high"))
    place.fill_between(counts, low, high, alpha=0.2, label="95 % interval")
    place.plot(counts, [each.accuracy for each in ahead], marker="o", label="expected")
    place.set(xlabel="training pictures", ylabel="validation accuracy of the head alone")
    place.set_xscale("log")
    place.set_xticks([], minor=True)
    place.set_xticks(
        [each.pictures for each in curve.points[::2]] + counts[1:],
        [f"{each.pictures:,}" for each in curve.points[::2]] + [f"{counts[1]:,}"],
    )
    place.grid(alpha=0.3)
    place.legend(loc="upper left", frameon=False, fontsize=9)
    save(figure, path)


def new_figure(width: float, height: float) -> "Figure":
    """A figure without a window, whatever the user's Matplotlib is set to."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as a PNG, whole or not at all."""
    with files.written_whole(path) as partial:
        figure.savefig(partial, dpi=120)
