"""Matplotlib plots of the training data and of the evaluation."""

import csv
import hashlib
import itertools
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from efftune.data import augmentation, bit_depth, images, picture_bytes
from efftune.data.bit_depth import BitDepth
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

_SAMPLES = 9
_COLUMNS = 3
_SIDE = 224  # of sample pictures, in pixels
_MAX_BARS = 60
_MAX_MARKERS = 40  # points of a curve; longer curves have no markers
_MAX_LABELLED = 40  # classes of a confusion matrix with names and counts
_MAX_NAME = 60  # characters of a class or folder
_DARK = 0.55  # share of a row above which the count is white


def draw(
    folder: Path,
    paths: Sequence[Path],
    labels: Sequence[str],
    recipe: Recipe,
    image_size: int,
    depth: BitDepth = bit_depth.UNKNOWN,
) -> None:
    """Draw sample pictures in the `plots` folder of a run, as the public Keras example does.

    `samples.png`: nine training pictures with their classes. `augmented.png`: nine augmented views
    of the first one.

    Args:
        folder: of the run.
        paths: the training pictures.
        labels: their class names.
        recipe: the resizing and augmentation settings.
        image_size: side of the network's input, in pixels.
        depth: of the pictures.
    """
    chosen = np.random.default_rng(recipe.seed).permutation(len(paths))[:_SAMPLES]
    contents = [picture_bytes.read(paths[i]) for i in chosen]
    fit = recipe.backbone.fit
    samples = [images.decode(content, image_size, fit, depth) for content in contents]
    titles = [labels[i] for i in chosen]
    _grid(folder / "plots" / "samples.png", samples, titles)
    digest = hashlib.sha256(contents[0]).digest()
    views = [
        augmentation.plan(recipe.seed, digest, number, *recipe.view_settings)
        for number in range(1, _SAMPLES + 1)
    ]
    augmented = [augmentation.apply(samples[0], view) for view in views]
    _grid(folder / "plots" / "augmented.png", augmented, titles[:1] * _SAMPLES)


def draw_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Draw the evaluation of a run in its `plots` folder.

    `accuracy.png`: accuracy after each epoch of each stage. `confusion.png`: the confusion matrix
    of the test split. `calibration.png`: a reliability diagram. `learning_curve.png`: accuracy by
    number of training pictures, if it was measured.

    Args:
        folder: of the run; it contains `history.csv`.
        evaluation: of the trained network.
    """
    plots = folder / "plots"
    held_out = "out-of-fold" if evaluation.cross_validation else "validation"
    _curves(plots / "accuracy.png", folder / "history.csv", held_out)
    name = "pictures, out of fold" if evaluation.cross_validation else "test pictures"
    _confusion(plots / "confusion.png", evaluation.test, name)
    if evaluation.calibration is not None:
        _reliability(plots / "calibration.png", evaluation.calibration)
    if evaluation.learning_curve is not None:
        _learning_curve(plots / "learning_curve.png", evaluation.learning_curve, held_out)


def draw_source(
    folder: Path,
    rows: Sequence[Example],
    measurements: NDArray[np.void],
    pairs: Sequence[DuplicatePair],
    depth: BitDepth = bit_depth.UNKNOWN,
) -> None:
    """Draw the contents of a source, for `efftune check --out`.

    `samples.png`: nine pictures with their classes. `augmented.png`: nine augmented views of the
    first one. `sizes.png`: width and height of each picture. `classes.png`: pictures per class and
    split. `duplicates.png`: duplicates next to their originals.

    Args:
        folder: to write to.
        rows: usable pictures.
        measurements: of these pictures, from `inspection`.
        pairs: duplicates among them.
        depth: of the pictures.
    """
    if not rows:
        return
    chosen = _sample(rows)
    samples = [_thumbnail(row, depth) for row in chosen]
    titles = [row.label for row in chosen]
    _grid(folder / "samples.png", samples, titles)
    content = picture_bytes.read(chosen[0].path)
    first, digest = images.decode(content, _SIDE, "crop", depth), hashlib.sha256(content).digest()
    views = [augmentation.plan(0, digest, i, "standard", "yes") for i in range(1, _SAMPLES + 1)]
    augmented = [augmentation.apply(first, view) for view in views]
    _grid(folder / "augmented.png", augmented, titles[:1] * _SAMPLES)
    _sizes(folder / "sizes.png", measurements)
    _classes(folder / "classes.png", rows)
    if pairs:
        titled = [
            (rows[i], f"{rows[i].label}{text}")
            for pair in pairs[: _SAMPLES - 1]
            for i, text in ((pair.first, ""), (pair.second, f", {_kind(pair)}"))
        ]
        _grid(
            folder / "duplicates.png",
            [_thumbnail(row, depth) for row, _ in titled],
            [title for _, title in titled],
            columns=4,
        )


def _sample(rows: Sequence[Example]) -> list[Example]:
    """Nine pictures, drawn from the classes in turn."""
    by_class: dict[str, list[Example]] = {}
    for row in rows:
        by_class.setdefault(row.label, []).append(row)
    random = np.random.default_rng(0)
    shuffled = [[part[i] for i in random.permutation(len(part))] for part in by_class.values()]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*shuffled))
    return list(itertools.islice((row for row in turns if row is not None), _SAMPLES))


def _thumbnail(row: Example, depth: BitDepth) -> Pixels:
    return images.decode(picture_bytes.read(row.path), _SIDE, "pad", depth)


def _kind(pair: DuplicatePair) -> str:
    return f"{'exact' if pair.exact else 'mirrored' if pair.mirrored else 'near'} copy"


def _sizes(path: Path, measurements: NDArray[np.void]) -> None:
    figure = new_figure(5.4, 4.6)
    axes = figure.subplots()
    axes.scatter(measurements["width"], measurements["height"], s=8, alpha=0.3, linewidths=0)
    axes.set(xlabel="width, pixels", ylabel="height, pixels", xlim=(0, None), ylim=(0, None))
    axes.set_title(f"Sizes of {len(measurements):,} pictures", fontsize=10)
    axes.grid(alpha=0.3)
    save(figure, path)


def _classes(path: Path, rows: Sequence[Example]) -> None:
    """A bar chart of the classes, largest first; of many, only the largest and smallest."""
    counts = Counter(row.label for row in rows)
    ranked = [name for name, _ in counts.most_common()]
    if len(ranked) > _MAX_BARS:
        ranked = [*ranked[: _MAX_BARS // 2], *ranked[-_MAX_BARS // 2 :]]
    splits = [split for split in (*SPLITS, "") if any(row.split == split for row in rows)]
    by_split = Counter[tuple[str, str]]((row.label, row.split) for row in rows)
    figure = new_figure(7.2, 1.2 + 0.25 * len(ranked))
    axes = figure.subplots()
    left = np.zeros(len(ranked))
    for split in splits:
        values = np.array([by_split[name, split] for name in ranked])
        axes.barh(range(len(ranked)), values, left=left, label=split or "not split yet")
        left += values
    axes.set_yticks(range(len(ranked)), [*map(drawable, ranked)], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("pictures")
    left_out = len(counts) - len(ranked)
    title = f"{len(counts):,} classes" + (
        f", {left_out:,} in the middle not shown" if left_out else ""
    )
    axes.set_title(title, fontsize=10)
    axes.legend(loc="lower right", frameon=False)
    save(figure, path)


def _grid(
    path: Path, pictures: Sequence[Pixels], titles: Sequence[str], columns: int = _COLUMNS
) -> None:
    rows = math.ceil(len(pictures) / columns)
    figure = new_figure(2.4 * columns, 2.6 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, picture, title in zip(grid, pictures, titles, strict=False):
        axes.imshow(picture)
        # Class names come from the user: a dollar sign must not start a formula.
        axes.set_title(drawable(title), fontsize=10, parse_math=False)
    save(figure, path)


def _network(row: dict[str, str]) -> str:
    return row.get("network", "")  # earlier versions had no such column


def _curves(path: Path, history: Path, held_out: str) -> None:
    with history.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    stages = [list(part) for _, part in itertools.groupby(rows, lambda row: row["stage"])]
    figure = new_figure(1.2 + 3.8 * len(stages), 3.6)
    all_axes = figure.subplots(1, len(stages), sharey=True, squeeze=False)[0]
    for axes, part in zip(all_axes, stages, strict=True):
        networks = [list(rows) for _, rows in itertools.groupby(part, _network)]
        for column, name, colour in (
            ("accuracy", "training (augmented)", "C0"),
            ("val_accuracy", held_out, "C1"),
        ):
            for i, rows in enumerate(networks):
                epochs = [int(row["epoch"]) for row in rows]
                values = [float(row[column] or "nan") for row in rows]  # not all were validated
                # A single value would not be seen without.
                is_marked = len(part) <= _MAX_MARKERS or np.isfinite(values).sum() == 1
                label = "" if i else name
                axes.plot(epochs, values, colour, marker="." if is_marked else None, label=label)
        axes.set(title=part[0]["stage"], xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
    all_axes[0].set_ylabel("accuracy")
    all_axes[-1].legend(loc="lower right", frameon=False)
    save(figure, path)


def _confusion(path: Path, score: SplitEvaluation, name: str) -> None:
    """The confusion matrix; with many classes, counts and names are omitted."""
    names = [drawable(each.name) for each in score.per_class]
    counts = np.array(score.confusion)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    labelled = len(names) <= _MAX_LABELLED
    for_names = 0.08 * max(0, max(map(len, names)) - 12)
    side = 2.4 + 0.42 * len(names) + for_names if labelled else 9.0
    figure = new_figure(side, side)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if labelled:
        numbers = range(len(names))
        axes.set_xticks(numbers, names, rotation=90, parse_math=False)
        axes.set_yticks(numbers, names, parse_math=False)
        for row, column in zip(*counts.nonzero(), strict=True):
            colour = "white" if shares[row, column] > _DARK else "black"
            text = f"{counts[row, column]:,}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(f"Confusion matrix of {score.pictures:,} {name}", fontsize=10)
    save(figure, path)


def _reliability(path: Path, calibration: Calibration) -> None:
    figure = new_figure(4.8, 4.6)
    axes = figure.subplots()
    for when, ece in calibration.ece["test"].items():
        bins = calibration.bins[when]
        confidence, accuracy = (
            [getattr(each, key) for each in bins] for key in ("confidence", "accuracy")
        )
        name = f"{when} calibration, ECE {ece:.3f}"
        weights = [each.pictures for each in bins]
        area = 12 + 200 * np.array(weights) / max(weights)
        axes.scatter(confidence, accuracy, s=area, alpha=0.6, linewidths=0, label=name)
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":", label="perfect calibration")
    axes.set(xlabel="confidence", ylabel="accuracy")
    axes.set_title("Reliability (larger dots hold more pictures)", fontsize=10)
    axes.set(xlim=(0, 1.04), ylim=(-0.04, 1.04))
    axes.grid(alpha=0.3)
    for dot in axes.legend(loc="upper left", frameon=False, fontsize=9).legend_handles[:2]:
        dot.set_sizes([40])  # type: ignore[union-attr]  # a PathCollection, as drawn above
    save(figure, path)


def _learning_curve(path: Path, curve: LearningCurve, held_out: str) -> None:
    figure = new_figure(5.4, 3.8)
    axes = figure.subplots()
    measured = [(each.pictures, value) for each in curve.points for value in each.accuracy]
    sizes, accuracies = zip(*measured, strict=True)
    axes.scatter(sizes, accuracies, s=14, color="0.55", label="measured")
    expected = (curve.now, curve.double)
    counts = [each.pictures for each in expected]
    low, high = ([getattr(each, end) for each in expected] for end in ("low", "high"))
    axes.fill_between(counts, low, high, alpha=0.2, label="95 % interval")
    axes.plot(counts, [each.accuracy for each in expected], marker="o", label="extrapolated")
    axes.set(xlabel="training pictures", ylabel=f"{held_out} accuracy (head only)")
    axes.set_xscale("log")
    axes.set_xticks([], minor=True)
    axes.set_xticks(
        [each.pictures for each in curve.points[::2]] + counts[1:],
        [f"{each.pictures:,}" for each in curve.points[::2]] + [f"{counts[1]:,}"],
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    save(figure, path)


def new_figure(width: float, height: float) -> "Figure":
    """Create a figure that opens no window, whatever Matplotlib backend is configured."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as a PNG, atomically."""
    with files.written_whole(path) as partial, warnings.catch_warnings():
        # Matplotlib's font lacks some scripts and draws boxes instead; no warning is needed.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(partial, dpi=120)


def drawable(name: str) -> str:
    """The name of a class or folder, which may be long and hold any bytes, as a plot has it."""
    text = name.encode(errors="replace").decode()
    return text if len(text) <= _MAX_NAME else f"{text[: _MAX_NAME - 1]}…"
