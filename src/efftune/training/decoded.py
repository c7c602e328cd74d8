"""Decoded pictures, for stages that train on pixels."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from efftune.data import images
from efftune.data.bit_depth import BitDepth
from efftune.data.examples import Split
from efftune.data.images import Pixels
from efftune.errors import BadImage, DataError, DiskFull
from efftune.model.backbone import Backbone
from efftune.recipe.inputs import Fit
from efftune.system.progress import Timer
from efftune.training.batches import DecodedAgain, DecodedImages, LabelledInputs
from efftune.training.planning import Plan
from efftune.training.training_data import TrainingData


def inputs(
    backbone: Backbone, data: TrainingData, plan: Plan, timer: Timer
) -> tuple[LabelledInputs, LabelledInputs | None]:
    """Decoded training and validation pictures; training augments them in each epoch.

    Args:
        backbone: the network, whose input has their size.
        data: the pictures.
        plan: the plan of the run.
        timer: measures the phase.

    Raises:
        DataError: a picture cannot be decoded any more.
    """
    found = []
    splits: tuple[Split, ...] = ("train", "val") if data.paths["val"] else ("train",)
    total = len(data.paths["train"]) + len(data.paths["val"])
    done = itertools.count(1)
    settings = backbone.image_size, plan.recipe.backbone.fit, plan.depth
    for split in splits:
        paths = data.paths[split]
        pixels: Pixels | DecodedAgain = DecodedAgain(paths, *settings)
        if plan.decoded_bytes:
            with timer.phase("decode"):
                pixels = _all_decoded(paths, settings, lambda: timer.count(next(done), total))
        sha256s = data.features[split].sha256s
        digests = [bytes.fromhex(sha256s[path]) for path in paths]
        decoded = DecodedImages(pixels, digests, plan.recipe)
        found.append(LabelledInputs(decoded, data.labels[split]))
    return found[0], found[1] if len(found) > 1 else None


def _all_decoded(
    paths: Sequence[Path], settings: tuple[int, Fit, BitDepth], on_done: Callable[[], None]
) -> Pixels | DecodedAgain:
    """See `images.decode_all`; without room for that, pictures are decoded whenever they are used.

    Raises:
        DataError: a picture cannot be decoded any more.
    """
    try:
        return images.decode_all(paths, *settings, on_done)
    except DiskFull:
        return DecodedAgain(paths, *settings)
    except BadImage as error:
        raise DataError(f"A picture changed during the run: {error}. Start again.") from None
