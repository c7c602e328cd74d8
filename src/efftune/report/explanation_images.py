"""Explanations as PNG files."""

import itertools
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from efftune.data.images import Pixels
from efftune.errors import BadImage, DataError, UsageError
from efftune.evaluation.explanation import Explainer, Explanation, resized
from efftune.model.classifier import Classifier
from efftune.report import plots
from efftune.system import files

_COLOURED = 0.55  # share of the colour where the heat is laid over a picture


_SIDE = 420  # of what is written, in pixels


_TITLE = 40  # above it


_LONGEST = 60  # characters of a name


@dataclass(frozen=True)
class ExplanationFile:
    """An explanation that was written.

    Attributes:
        path: the picture.
        png: where the picture and its heat lie, side by side.
        label: the class explained.
        confidence: its probability, 0 to 1.
    """

    path: Path
    png: Path
    label: str
    confidence: float


def explain(
    classifier: Classifier,
    paths: Sequence[str | Path],
    out: str | Path,
    label: str | None = None,
    *,
    on_unreadable: Callable[[Path, str], None] | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[ExplanationFile]:
    """Explain pictures in PNG files: each picture beside itself with the evidence in colour.

    Args:
        classifier: whose answers to explain.
        paths: the pictures.
        out: the folder to write to. `a.jpg` is explained in `a-explained.png`, another `a.jpg` in
            `a-explained-2.png`; what an earlier call has written there is replaced.
        label: the class to find the evidence for; by default each picture's likeliest.
        on_unreadable: called with path and reason for a picture that cannot be decoded, which is
            then left out. Without it such a picture is an error.
        on_progress: called with the pictures done and their total.

    Returns:
        What was written, in the order of the pictures.

    Raises:
        UsageError: the classifier does not know that class, or a file cannot be written.
        DataError: a picture cannot be decoded and `on_unreadable` is not given.
    """
    explainer, written = Explainer(classifier), list[ExplanationFile]()
    out, taken = files.user_path(out), set[str]()
    for done, path in enumerate(map(files.user_path, paths), 1):
        try:
            explanation = explainer.explain_readable(path, label)
        except BadImage as error:
            if on_unreadable is None:
                raise DataError(f"Cannot explain {path}: {error.reason}.") from None
            on_unreadable(path, error.reason)
        else:
            png = out / _free_name(path, taken)
            write(explanation, png)
            written.append(ExplanationFile(path, png, explanation.label, explanation.confidence))
        on_progress(done, len(paths))
    return written


def overlay(explanation: Explanation, side: int) -> Pixels:
    """The picture in grey with the evidence in colour, from dark (none) to bright yellow (most).

    Args:
        explanation: what to show.
        side: of the result, in pixels, 1 or more.

    Returns:
        uint8 array (side, side, 3).
    """
    picture = resized(explanation.square, side)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    heat = resized(explanation.heat, side).clip(0, 1)
    levels = np.round(255 * heat).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1]  # it gives blue first
    mixed = (1 - _COLOURED) * grey + _COLOURED * colours
    return np.asarray(np.round(mixed), np.uint8)


def pair(explanation: Explanation, side: int) -> Pixels:
    """The picture and, on its right, its overlay.

    Args:
        explanation: what to show.
        side: of each of the two, in pixels, 1 or more.

    Returns:
        uint8 array (side, 2 * side, 3).
    """
    both = [resized(explanation.square, side), overlay(explanation, side)]
    return np.concatenate(both, axis=1)


def write(explanation: Explanation, path: Path) -> None:
    """Write the pair as a PNG with the class and its probability above.

    Raises:
        UsageError: the file cannot be written.
    """
    inch = 120  # pixels
    figure = plots.new_figure(2 * _SIDE / inch, (_SIDE + _TITLE) / inch)
    figure.set_layout_engine("none")  # nothing to lay out, and it takes most of the time
    figure.figimage(pair(explanation, _SIDE), origin="upper")
    label = explanation.label.encode(errors="replace").decode()  # names of folders may be any bytes
    label = label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…"
    title = f"{label}  {100 * explanation.confidence:.1f} %"
    height = (_SIDE + _TITLE / 2) / (_SIDE + _TITLE)
    figure.text(0.5, height, title, ha="center", va="center", fontsize=11, parse_math=False)
    with warnings.catch_warnings():
        # Boxes for the letters of scripts that Matplotlib's font lacks are no reason to complain.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        try:
            plots.save(figure, path)
        except OSError as error:
            raise UsageError(
                f"Cannot write {path}: {error.strerror}. Name another folder."
            ) from None


def _free_name(path: Path, taken: set[str]) -> str:
    """A name for a picture's explanation that is safe everywhere and not yet taken."""
    stem = re.sub(r"[^\w.-]+", "-", path.stem).strip("-.")[:_LONGEST] or "picture"
    numbers = itertools.chain([""], (f"-{i}" for i in itertools.count(2)))
    names = (f"{stem}-explained{number}.png" for number in numbers)
    name = next(name for name in names if name.casefold() not in taken)
    taken.add(name.casefold())
    return name
