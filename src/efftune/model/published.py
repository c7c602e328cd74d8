"""The published ImageNet classifiers, without any training."""

import hashlib
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import resources
from importlib.metadata import version
from typing import Any

from efftune.data.pictures import Picture
from efftune.errors import DataError
from efftune.model import catalogue
from efftune.model.backbone import VERSION as BACKBONE_VERSION
from efftune.model.backbone import Backbone
from efftune.model.classifier import Classifier
from efftune.model.prediction import Prediction
from efftune.model.saving import save
from efftune.model.weights_table import IMAGENET
from efftune.system import files
from efftune.system.progress import Progress, silent


def classify(
    pictures: Picture | Iterable[Picture],
    model: str = "efficientnet-lite0",
    top: int = 5,
    *,
    weights: str = IMAGENET,
    on_unreadable: Callable[[Any, str], None] | None = None,
    on_progress: Progress = silent,
) -> list[Prediction]:
    """Classify pictures into ImageNet's 1000 classes, with a published model.

    Pictures are resized and cropped as when the model's published accuracy was measured.

    Args:
        pictures: one picture or several, as for `Classifier.predict`.
        model: as `efftune models` lists it; its weights are downloaded if needed.
        top: number of most probable classes to return, 1 or more.
        weights: which of the model's published weights, as `efftune models` lists them.
        on_unreadable: as for `Classifier.predict`.
        on_progress: called with `download` or `predict`, the bytes or pictures done and the total,
            from several threads.

    Returns:
        One prediction per readable picture, in order.

    Raises:
        UsageError: an unknown model, it has no such weights, they are not installed, or `top` is
            below 1.
        DataError: the weights cannot be downloaded, or a picture cannot be decoded and
            `on_unreadable` is not given.
    """
    predictions = published(model, weights, on_progress).predict(
        pictures,
        top,
        on_unreadable=on_unreadable,
        on_progress=lambda done, total: on_progress("predict", done, total),
    )
    ids, _names = _classes()
    return [
        replace(each, wordnet_ids=tuple(ids[i] for i in each.top_indices)) for each in predictions
    ]


def published(name: str, weights: str = IMAGENET, on_progress: Progress = silent) -> Classifier:
    """A published classifier of ImageNet's 1000 classes.

    It is built once and then loaded from the cache folder.

    Raises:
        UsageError: an unknown model, it has no such weights, or they are not installed.
        DataError: the weights cannot be downloaded, or are not the published ones.
    """
    chosen = catalogue.model(name).with_weights(weights).weights
    backbone = Backbone(name, chosen.resolution, weights=weights, on_progress=on_progress)
    versions = (
        f"{backbone.weights} {BACKBONE_VERSION} {version('keras')} {backbone.engine.version()}"
    )
    digest = hashlib.sha256(versions.encode()).hexdigest()[:16]
    folder = files.cache_folder() / "classifiers" / f"{name}-{digest}"
    _ids, names = _classes()
    if not files.is_intact(folder):
        head = backbone.published_head
        if head is None or len(head[1]) != len(names):
            raise DataError(f"The weights of {name} contain no head for {len(names)} classes.")
        shutil.rmtree(folder, ignore_errors=True)
        with files.folder_written_whole(folder) as partial:
            save(partial, backbone, head, names)
            files.seal(partial)
    return Classifier(folder, names, backbone.image_size, chosen.resizing)


def _classes() -> tuple[list[str], list[str]]:
    """WordNet ids and names of ImageNet's classes, in the order of the published heads."""
    lines = (resources.files("efftune.model") / "imagenet.txt").read_text("utf-8").splitlines()
    pairs = [line.split(" ", 1) for line in lines]
    return [wordnet_id for wordnet_id, _ in pairs], [name for _, name in pairs]
