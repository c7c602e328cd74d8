"""What a classifier takes on this machine, time for a picture and size, against a `--goal`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from efftune.data import images
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
        milliseconds: median time for one picture alone, from its file to the answer, on the CPU.
        megabytes: size of its network, in 10^6 bytes.
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


def cost(backbone: Backbone, recipe: Recipe, paths: Sequence[Path]) -> Cost:
    """What a classifier takes with one network, measured before it is trained.

    Args:
        backbone: the network.
        recipe: of the run.
        paths: pictures; a few are enough.
    """
    entry = backbone.entry
    parameters = entry.parameters - 1000 * (entry.features + 1)  # without the head of ImageNet
    milliseconds = _latency(backbone, planning.pooled_output(recipe), recipe, paths)
    return Cost(milliseconds, parameters * _BYTES / 1e6)


def with_members(
    single: Cost, backbone: Backbone, recipe: Recipe, paths: Sequence[Path]
) -> Callable[[int, bool], Cost]:
    """What ensembles take, by the number of networks and whether mirror images are averaged.

    Args:
        single: one network.
        backbone: the network.
        recipe: of the run; its networks share the blocks below the trained one.
        paths: as for `cost`.
    """
    block = backbone.block(recipe.tuning.unfreeze)
    lower = _latency(backbone, block, recipe, paths)
    _, upper = backbone.cut(block)
    megabytes = upper.count_params() * _BYTES / 1e6

    def of(members: int, mirrored: bool) -> Cost:
        more = (members - 1) * max(0.0, single.milliseconds - lower)
        milliseconds = (single.milliseconds + more) * (2 if mirrored else 1)
        return Cost(milliseconds, single.megabytes + (members - 1) * megabytes)

    return of


def of_classifier(classifier: Classifier, run: Path, paths: Sequence[Path]) -> Cost:
    """What a trained classifier takes, measured.

    Args:
        classifier: of a run.
        run: its folder.
        paths: pictures that can be decoded; a few are enough.
    """
    network = [path for path in (run / "openvino").glob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in network or [run / "model.keras"])
    return Cost(_timed(lambda path: classifier.predict([path]), paths), size / 1e6)


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
    """Milliseconds from a picture's file to an output of the backbone, on the CPU."""
    if backbone.device != "cpu":
        backbone = Backbone.of(recipe.changed(model=backbone.entry.name), "cpu")
    network = backbone.pretrained([output], precision="f32", dtypes=["float32"])

    def load(path: Path) -> Pixels | None:
        try:
            return images.decode(images.read(path), backbone.image_size, recipe.backbone.fit)[None]
        except BadImage:
            return None

    return _timed(lambda path: network.run([path], load, lambda *_: None), paths)
