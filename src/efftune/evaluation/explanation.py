"""Where in a picture a classifier finds its evidence: Grad-CAM, from forward passes alone.

Grad-CAM weighs the last activations by the gradient of a class's logit, averaged over places, and
keeps what is positive. Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks
via Gradient-based Localization" (2017), https://arxiv.org/abs/1610.02391.

Every network here ends in global average pooling and a dense layer. There the gradient is the
class's column of the head's kernel, divided by the number of places: it is known without
backpropagation, and a saved OpenVINO model is enough.

Softmax does not change when the same is added to all logits, so a logit alone says nothing: with
two classes, the first column of the head that efftune fits is zero. What is explained is therefore
how far a class's logit is above the mean of all.
"""

import itertools
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from efftune.data import images
from efftune.data.images import Pixels
from efftune.errors import BadImage, DataError, UsageError, unknown_name
from efftune.model.classifier import OPENVINO_FILE, Classifier
from efftune.model.engines import openvino_engine
from efftune.report import plots
from efftune.system import files

Array = NDArray[np.float32]

_COLOURED = 0.55  # share of the colour where the heat is laid over a picture
_SIDE = 420  # of what is written, in pixels
_TITLE = 40  # above it
_LONGEST = 60  # characters of a name


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where in a picture the evidence for a class lies.

    Attributes:
        path: the picture.
        label: the class.
        confidence: its probability, 0 to 1.
        square: the picture as the network sees it, uint8 (size, size, 3).
        heat: float32 (size, size), 0 to 1: the evidence in each place, 1 where there is most; all
            zero where no place speaks for the class.
    """

    path: Path
    label: str
    confidence: float
    square: Pixels
    heat: Array


@dataclass(frozen=True)
class Explained:
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


class Explainer:
    """Explains a classifier's answers.

    Its network is read and compiled when the first picture is explained. Of a classifier that sees
    each picture and its mirror image, activations are averaged place by place.

    Attributes:
        classifier: whose answers it explains.
    """

    def __init__(self, classifier: Classifier):
        self.classifier = classifier

    def explain(self, path: str | Path, label: str | None = None) -> Explanation:
        """Explain one picture.

        Args:
            path: the picture.
            label: the class to find the evidence for; by default the likeliest.

        Raises:
            UsageError: the classifier does not know that class.
            DataError: the picture cannot be decoded.
        """
        path = files.user_path(path)
        try:
            return self._explained(path, label)
        except BadImage as error:
            raise DataError(f"Cannot explain {path}: {error.reason}.") from None

    def _explained(self, path: Path, label: str | None) -> Explanation:
        names, size = self.classifier.class_names, self.classifier.image_size
        if label is not None and label not in names:
            raise unknown_name("class", label, names)
        square = images.decode(images.read(path), size, self.classifier.fit)
        found = self._network.compiled(square[None])
        probabilities, activations = found[0][0], found[1][0]
        number = int(probabilities.argmax()) if label is None else names.index(label)
        heat = _heat(activations, self._dissected[1][:, number], size)
        return Explanation(path, names[number], float(probabilities[number]), square, heat)

    @cached_property
    def _dissected(self) -> tuple[Any, Array]:
        return _dissected(openvino_engine.read(self.classifier.folder / OPENVINO_FILE))

    @cached_property
    def _network(self) -> openvino_engine.Network:
        return openvino_engine.Network(
            lambda: self._dissected[0],
            size=self.classifier.image_size,
            dtypes=("float32", "float32"),
        )


def explain(
    classifier: Classifier,
    paths: Sequence[str | Path],
    out: str | Path,
    label: str | None = None,
    *,
    on_unreadable: Callable[[Path, str], None] | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Explained]:
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
    explainer, written = Explainer(classifier), list[Explained]()
    out, taken = files.user_path(out), set[str]()
    for done, path in enumerate(map(files.user_path, paths), 1):
        try:
            explanation = explainer._explained(path, label)
        except BadImage as error:
            if on_unreadable is None:
                raise DataError(f"Cannot explain {path}: {error.reason}.") from None
            on_unreadable(path, error.reason)
        else:
            png = out / _free_name(path, taken)
            write(explanation, png)
            written.append(Explained(path, png, explanation.label, explanation.confidence))
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
    picture = _resized(explanation.square, side)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    heat = _resized(explanation.heat, side).clip(0, 1)
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
    both = [_resized(explanation.square, side), overlay(explanation, side)]
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


def _dissected(model: Any) -> tuple[Any, Array]:
    """A classifier's graph taken apart.

    Args:
        model: an OpenVINO classifier, as `inference.with_head` makes it.

    Returns:
        A model that gives probabilities (pictures, classes) and the activations before global
        average pooling (pictures, features, height, width); and the head's kernel (features,
        classes), its columns above their mean.
    """
    nodes = model.get_ordered_ops()
    # Squeeze-and-excitation takes means over places, too: the last mean is the pooling.
    (*_, pooling) = (node for node in nodes if node.get_type_name() == "ReduceMean")
    (*_, head) = (node for node in nodes if node.get_type_name() == "MatMul")
    activations = pooling.input_value(0)
    followers = (each.get_node() for each in pooling.output(0).get_target_inputs())
    if any(node.get_type_name() == "Split" for node in followers):
        activations = _turned_back(activations)
    probabilities = model.output(0).get_node().input_value(0)
    kernel = np.array(head.input_value(1).get_node().data, np.float32)
    whole = ov.Model([probabilities, activations], model.get_parameters(), "explainer")
    return whole, kernel - kernel.mean(axis=1, keepdims=True)


def _turned_back(activations: Any) -> Any:
    """The mean activations of pictures and, after them, as many mirror images, turned back."""
    plain, mirror = ops.split(activations, 0, 2).outputs()
    width = activations.get_partial_shape()[3].get_length()
    back = ops.gather(mirror, np.arange(width)[::-1].copy(), np.int64(3))
    return ops.multiply(ops.add(plain, back), np.float32(0.5)).output(0)


def _heat(activations: Array, weights: Array, size: int) -> Array:
    """Grad-CAM of one picture, float32 (size, size), 0 to 1.

    Args:
        activations: float32, shape (features, height, width).
        weights: the gradient by feature, whatever its length, shape (features,).
        size: side of the picture, in pixels.
    """
    evidence = np.tensordot(weights, activations, 1).clip(0)
    heat = _resized(np.ascontiguousarray(evidence, np.float32), size).clip(0)
    peak = heat.max()
    return np.asarray(heat / peak if peak > 0 else heat, np.float32)


def _resized(square: NDArray[Any], side: int) -> NDArray[Any]:
    smaller = side < len(square)
    way = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(square, (side, side), interpolation=way))


def _free_name(path: Path, taken: set[str]) -> str:
    """A name for a picture's explanation that is safe everywhere and not yet taken."""
    stem = re.sub(r"[^\w.-]+", "-", path.stem).strip("-.")[:_LONGEST] or "picture"
    numbers = itertools.chain([""], (f"-{i}" for i in itertools.count(2)))
    names = (f"{stem}-explained{number}.png" for number in numbers)
    name = next(name for name in names if name.casefold() not in taken)
    taken.add(name.casefold())
    return name
