"""Explanations as PNG files."""

import itertools
import re
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

_OPACITY = 0.55  # of the heat map over the picture
_SIDE = 420  # of each of the two images, in pixels
_TITLE_HEIGHT = 40  # pixels
_MAX_NAME = 60  # characters of a file name


@dataclass(frozen=True)
class ExplanationFile:
    """An explanation that was written to a file.

    Attributes:
        path: the picture.
        png: shows the picture and its heat map side by side.
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
    """Write PNG files that show each picture next to its Grad-CAM heat map.

    Args:
        classifier: whose predictions to explain.
        paths: the pictures.
        out: the folder to write to. `a.jpg` is explained in `a-explained.png`, another `a.jpg` in
            `a-explained-2.png`; files of an earlier call are overwritten.
        label: the class to explain; by default the predicted class of each picture.
        on_unreadable: called with path and reason for a picture that cannot be decoded, which is
            then skipped. Without it, such a picture raises DataError.
        on_progress: called with the number of pictures done and their total.

    Returns:
        The files written, in the order of the pictures.

    Raises:
        UsageError: the classifier does not know that class, or a file cannot be written.
        DataError: a picture cannot be decoded and `on_unreadable` is not given.
    """
    explainer, written = Explainer(classifier), list[ExplanationFile]()
    out, taken = files.output_path(out), set[str]()
    for done, path in enumerate((files.user_path(path or ".") for path in paths), 1):
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
    """The greyscale picture with the heat map over it, from dark (0) to bright yellow (1).

    Args:
        explanation: to draw.
        side: of the result, in pixels, 1 or more.

    Returns:
        uint8 array (side, side, 3).
    """
    picture = resized(explanation.pixels, side)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    heat = resized(explanation.heat, side).clip(0, 1)
    levels = np.round(255 * heat).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1]  # BGR to RGB
    mixed = (1 - _OPACITY) * grey + _OPACITY * colours
    return np.asarray(np.round(mixed), np.uint8)


def pair(explanation: Explanation, side: int) -> Pixels:
    """The picture with its overlay to the right.

    Args:
        explanation: to draw.
        side: of each of the two images, in pixels, 1 or more.

    Returns:
        uint8 array (side, 2 * side, 3).
    """
    both = [resized(explanation.pixels, side), overlay(explanation, side)]
    return np.concatenate(both, axis=1)


def write(explanation: Explanation, path: Path) -> None:
    """Write picture and overlay as a PNG, with the class and its probability as the title.

    Raises:
        UsageError: the file cannot be written.
    """
    inch = 120  # pixels, the resolution that figures are saved at
    figure = plots.new_figure(2 * _SIDE / inch, (_SIDE + _TITLE_HEIGHT) / inch)
    figure.set_layout_engine("none")  # unnecessary here, and slow
    figure.figimage(pair(explanation, _SIDE), origin="upper")
    title = f"{plots.drawable(explanation.label)}  {100 * explanation.confidence:.1f} %"
    height = (_SIDE + _TITLE_HEIGHT / 2) / (_SIDE + _TITLE_HEIGHT)
    figure.text(0.5, height, title, ha="center", va="center", fontsize=11, parse_math=False)
    try:
        plots.save(figure, path)
    except OSError as error:
        raise UsageError(f"Cannot write {path}: {error.strerror}. Choose another folder.") from None


def _free_name(path: Path, taken: set[str]) -> str:
    """A portable file name for a picture's explanation that is not yet taken."""
    stem = re.sub(r"[^\w.-]+", "-", path.stem).strip("-.")[:_MAX_NAME] or "picture"
    numbers = itertools.chain([""], (f"-{i}" for i in itertools.count(2)))
    names = (f"{stem}-explained{number}.png" for number in numbers)
    name = next(name for name in names if name.casefold() not in taken)
    taken.add(name.casefold())
    return name
