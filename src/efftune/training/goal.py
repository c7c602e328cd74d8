"""What a classifier takes on this machine, time for a picture and size, against a `--goal`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from efftune.data import images, picture_bytes
from efftune.data.images import Pixels
from efftune.errors import BadImage
from efftune.model.backbone import Backbone
from efftune.model.classifier import Classifier
from efftune.recipe.recipe import Recipe
from efftune.training import planning

_MEASURED = 24  # pictures, each alone
_FIRST = 4  # of these, not counted: the network is compiled
_BYTES = 4  # per parameter


@dataclass(frozen=True)
class Cost:
    """What a classifier takes.

    Attributes:
        milliseconds: median time for one picture alone, from its file to the answer.
        megabytes: size of its network's weights, in 10^6 bytes.
    """

    milliseconds: float
    megabytes: float

    def beyond(self, recipe: Recipe) -> str:
        """In which it misses the goal of a recipe, as text; empty if it keeps it."""
        milliseconds, megabytes = recipe.limits
        missed = []
        if self.milliseconds > milliseconds:
            missed.append(f"{self.milliseconds:.1f} ms for a picture")
        if self.megabytes > megabytes:
            missed.append(f"{self.megabytes:.1f} MB")
        return " and ".join(missed)


def cost(backbone: Backbone, recipe: Recipe, paths: Sequence[Path], classes: int) -> Cost:
    """What a classifier takes with one network, measured before it is trained.

    Args:
        backbone: the network.
        recipe: of the run.
        paths: pictures; a few are enough.
        classes: their number.
    """
    entry, output = backbone.entry, planning.pooled_output(recipe)
    parameters = entry.parameters - 1000 * (entry.features + 1)  # without the head of ImageNet
    parameters += (backbone.shape(output)[0] + 1) * classes
    return Cost(_latency(backbone, output, recipe, paths), parameters * _BYTES / 1e6)


def with_members(
    single: Cost, backbone: Backbone, recipe: Recipe, paths: Sequence[Path], classes: int
) -> Callable[[int, bool], Cost]:
    """What ensembles take, by the number of networks and whether mirror images are averaged.

    Args:
        single: one network.
        backbone: the network.
        recipe: of the run; if it trains upper blocks, its networks share those below.
        paths: as for `cost`.
        classes: as for `cost`.
    """
    decoding = _timed(lambda path: _pixels(path, backbone, recipe), paths)
    above, megabytes = 0.0, 0.0
    if any(stage.name == "upper" for stage in recipe.stages):
        block = backbone.block(recipe.tuning.unfreeze)
        above = max(0.0, single.milliseconds - _latency(backbone, block, recipe, paths))
        _, upper = backbone.cut(block)
        parameters = upper.count_params() + backbone.entry.features * classes
        megabytes = parameters * _BYTES / 1e6

    def of(members: int, mirrored: bool) -> Cost:
        network = max(0.0, single.milliseconds - decoding) + (members - 1) * above
        milliseconds = decoding + network * (2 if mirrored else 1)
        return Cost(milliseconds, single.megabytes + (members - 1) * megabytes)

    return of


def of_classifier(classifier: Classifier, run: Path, paths: Sequence[Path]) -> Cost:
    """What a trained classifier takes, measured.

    Args:
        classifier: of a run.
        run: its folder.
        paths: pictures that can be decoded; a few are enough.
    """
    network = run / "openvino" / "model.bin"
    size = (network if network.exists() else run / "model.keras").stat().st_size

    def predict(path: Path) -> None:
        classifier.predict([path], on_unreadable=lambda *_: None)

    return Cost(_timed(predict, paths), size / 1e6)


def compared(cost: Cost, recipe: Recipe) -> str:
    """In words, whether a trained classifier keeps the goal of its recipe."""
    verdict = "not within" if cost.beyond(recipe) else "within"
    return (
        f"a picture alone takes {cost.milliseconds:.1f} ms on this machine, and the network "
        f"{cost.megabytes:.1f} MB: {verdict} --goal {recipe.goal!r}"
    )


def _timed(predict: Callable[[Path], Any], paths: Sequence[Path]) -> float:
    """Median milliseconds of a prediction of one picture alone; few pictures are repeated."""
    times = []
    for number in range(_MEASURED):
        began = time.perf_counter()
        predict(paths[number % len(paths)])
        times.append(time.perf_counter() - began)
    return 1000 * median(times[_FIRST:])


def _latency(backbone: Backbone, output: str, recipe: Recipe, paths: Sequence[Path]) -> float:
    """Milliseconds from a picture's file to an output, as predictions are made: not on a GPU."""
    if backbone.device != "cpu":
        backbone = Backbone.of(recipe.changed(model=backbone.entry.name), "cpu")
    network = backbone.pretrained([output], precision="f32", dtypes=["float32"])

    def load(path: Path) -> Pixels | None:
        pixels = _pixels(path, backbone, recipe)
        return None if pixels is None else pixels[None]

    return _timed(lambda path: network.run([path], load, lambda *_: None), paths)


def _pixels(path: Path, backbone: Backbone, recipe: Recipe) -> Pixels | None:
    """A picture as the network sees it; None if it cannot be read."""
    try:
        return images.decode(picture_bytes.read(path), backbone.image_size, recipe.backbone.fit)
    except BadImage:
        return None
