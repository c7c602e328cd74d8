"""Features of a trained network: of held-out pictures, and of those that distances refer to."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from efftune.data.bit_depth import BitDepth
from efftune.data.examples import Split
from efftune.features import extraction
from efftune.features.extraction import ExtractionSettings
from efftune.model import uncertainty as uncertainties
from efftune.model.backbone import POOLED
from efftune.recipe.recipe import Recipe
from efftune.system.progress import Timer
from efftune.training.regression_head import Matrix
from efftune.training.stage_result import NetworkState
from efftune.training.training_data import TrainingData


def compute(
    network: NetworkState,
    data: TrainingData,
    depth: BitDepth,
    recipe: Recipe,
    timer: Timer,
    splits: Sequence[Split] = ("val", "test"),
) -> dict[Split, Matrix]:
    """Features of the pictures of some splits, and of the reference pictures.

    Args:
        network: the trained network.
        data: the pictures.
        depth: which values of pictures of more than 8 bits become black and white.
        recipe: completely resolved.
        timer: reports progress.
        splits: validation, test, both or none of them.

    Returns:
        By split, float32 (pictures, features); for `train`, of the reference pictures. Those of
        the last stage, and before them perhaps those of the other stages.
    """
    backbone, output = network.backbone, network.backbone.features_of(network.kernel)
    mirrored = recipe.averages_mirror_images
    chosen = references(len(data.paths["train"]), recipe.seed)
    paths = {split: data.paths[split] for split in splits}
    paths["train"] = [data.paths["train"][i] for i in chosen]
    features: dict[Split, Matrix] = {}
    if not backbone.weights_changed and not mirrored:  # the cached features are the same
        features = {split: data.features[split].pooled() for split in splits}
        if any((pooled, 0) in data.features["train"].rows for pooled in POOLED):
            features["train"] = data.features["train"].pooled()[chosen]
    missing = [split for split in paths if split not in features]
    if not missing:
        return features
    together = [path for split in missing for path in paths[split]]  # one network for all
    done = itertools.count(1)
    found = extraction.extract_pooled(
        backbone,
        together,
        ExtractionSettings(recipe.backbone.fit, "f32", depth=depth),
        lambda: timer.count(next(done), len(together)),
        output=output,
        mirrored=mirrored,
    )
    start = 0
    for split in missing:
        features[split] = found[start : start + len(paths[split])]
        start += len(paths[split])
    return features


def references(count: int, seed: int) -> NDArray[np.int64]:
    """Indices of the training pictures, of `count`, that distances refer to; int64, sorted."""
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[: uncertainties.REFERENCES])
