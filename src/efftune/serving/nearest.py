"""Training pictures that are nearest to a picture, by what the classifier sees in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efftune.data import pictures
from efftune.data.images import Pixels
from efftune.delivery import photos
from efftune.delivery.photos import Photo
from efftune.errors import BadImage
from efftune.model.classifier import Classifier
from efftune.serving.answering import Unreadable, pixels_of
from efftune.serving.metrics import Metrics

_SIDE = 96  # pixels of the small pictures
Array = NDArray[np.float32]


@dataclass(frozen=True)
class TrainingPicture:
    """A training picture, as it is shown.

    Attributes:
        label: its class.
        thumbnail: WebP in base64.
        place: float32 (dimensions,), where the classifier measures distances.
    """

    label: str
    thumbnail: str
    place: Array


@dataclass(frozen=True)
class Neighbour:
    """A training picture near to another picture.

    Attributes:
        picture: itself.
        distance: between them, 0 or more; as for what is unlike the training pictures.
    """

    picture: TrainingPicture
    distance: float

    def to_dict(self) -> dict[str, Any]:
        """What is said of it, as values for JSON."""
        return {
            "label": self.picture.label,
            "distance": round(self.distance, 6),
            "thumbnail": f"data:image/webp;base64,{self.picture.thumbnail}",
        }


class TrainingPictures:
    """Training pictures among which near ones are found."""

    def __init__(self, classifier: Classifier, found: Sequence[TrainingPicture]):
        """Take what `Learning` has made of them, at least one."""
        self.classifier = classifier
        self._found = found
        self._places = np.stack([each.place for each in found])

    def nearest(self, pixels: Pixels, count: int) -> list[Neighbour]:
        """The nearest ones to a decoded picture, `count` or all, in ascending order of distance."""
        distances = np.linalg.norm(self._places - _place(self.classifier, pixels), axis=1)
        order = np.argsort(distances, kind="stable")[:count].tolist()
        return [Neighbour(self._found[i], float(distances[i])) for i in order]


@dataclass(frozen=True)
class Learning:
    """What is done with a training picture, so that it can be shown.

    Attributes:
        classifier: that was trained on it.
    """

    classifier: Classifier

    def __call__(self, photo: Photo) -> TrainingPicture | None:
        """See where the picture is; None if it cannot be read, or is not as it was."""
        try:
            content = photos.as_it_was(photo)
            pixels = self.classifier.decode(content)
            small = pictures.thumbnail(content, _SIDE)
        except BadImage:
            return None
        label = self.classifier.class_names[photo.label]
        return TrainingPicture(label, small, _place(self.classifier, pixels))


@dataclass(frozen=True)
class Finding:
    """What is done with a picture to find the training pictures that are nearest to it.

    Attributes:
        training: pictures.
        count: of those that are found.
        most_pixels: of a picture.
        metrics: count what is done.
    """

    training: TrainingPictures
    count: int
    most_pixels: int
    metrics: Metrics

    def __call__(self, picture: bytes) -> list[Neighbour] | Unreadable:
        """Find those that are nearest to the picture in a file."""
        pixels = pixels_of(picture, self.training.classifier, self.most_pixels, self.metrics)
        if isinstance(pixels, Unreadable):
            return pixels
        return self.training.nearest(pixels, self.count)


def _place(classifier: Classifier, pixels: Pixels) -> Array:
    """Where a picture is, float32 (dimensions,): its features as distances are measured on them."""
    found = list[Array]()
    classifier.network.run(
        [pixels[None]],
        lambda each: each,
        lambda _item, _view, values: found.append(values[1].copy()),
    )
    uncertainty = classifier.uncertainty
    detector = None if uncertainty is None else uncertainty.detector
    features = found[0].astype(np.float32)
    if detector is not None:
        return np.asarray(detector.embed(features[None])[0])
    return np.asarray(features / max(float(np.linalg.norm(features)), 1e-12))
