"""What a classifier says of pictures."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from efftune.data.pictures import thumbnail
from efftune.data.sources import addresses
from efftune.errors import BadImage
from efftune.system import text

_SIDE = 128  # pixels of the picture that a notebook shows


@dataclass(frozen=True, repr=False)
class Prediction:
    """The prediction for one picture.

    Attributes:
        path: the picture; None if it was not given as a path.
        label: the most probable class.
        confidence: its probability, 0 to 1.
        top: the most probable classes with their probabilities, in descending order.
        unsure: whether the confidence is too low to rely on.
        unlike: whether the picture is out-of-distribution: unlike the training pictures; None for
            exported files, which cannot tell.
        class_index: position of the class in `Classifier.class_names`.
        index: position of the picture among those given.
        top_indices: positions of the classes of `top` in `Classifier.class_names`.
        wordnet_ids: WordNet ids of the classes of `top`, such as `n02123045`; empty if the classes
            are not ImageNet's.
    """

    path: Path | None
    label: str
    confidence: float
    top: tuple[tuple[str, float], ...]
    unsure: bool = False
    unlike: bool | None = False
    class_index: int = 0
    index: int = 0
    top_indices: tuple[int, ...] = ()
    wordnet_ids: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """The class, its probability and the flags."""
        flags = "".join(f", {flag}" for flag in ("unsure", "unlike") if getattr(self, flag))
        where = f"{str(self.path)!r}: " if self.path else ""
        return f"Prediction({where}{self.label!r}, {self.confidence:.3f}{flags})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the picture, if its file can be read, and the classes."""
        picture: str | Markup = ""
        if self.path is not None:
            with suppress(BadImage):
                picture = text.thumbnail(thumbnail(self.path, _SIDE), _SIDE)
        flags = {"unsure": self.unsure, "unlike the training pictures": self.unlike}
        marked = ", ".join(flag for flag, is_set in flags.items() if is_set)
        rows = [(text.name(label), text.bar(share)) for label, share in self.top]
        told = Markup("<b>{}</b>{}{}<small>{}</small>").format(
            text.name(self.label),
            f" ({marked})" if marked else "",
            text.table(("class", "probability"), rows),
            "" if self.path is None else text.name(str(self.path)),
        )
        return str(text.beside(picture, told))

    def to_dict(self) -> dict[str, Any]:
        """The prediction as values for JSON; `path` is None if there is none."""
        return {
            **{"path": addresses.shown(self.path), "label": self.label},
            **{"confidence": self.confidence, "class_index": self.class_index},
            **{"unsure": self.unsure, "unlike": self.unlike},
            "top": [self._ranked(rank) for rank in range(len(self.top))],
        }

    def _ranked(self, rank: int) -> dict[str, Any]:
        label, confidence = self.top[rank]
        ids = {"class_index": self.top_indices, "wordnet_id": self.wordnet_ids}
        return {
            **{"label": label, "confidence": confidence},
            **{name: values[rank] for name, values in ids.items() if values},
        }


@dataclass(frozen=True)
class ModelOutputs:
    """Outputs of a classifier for many pictures.

    Attributes:
        probabilities: float32 (pictures, classes), zero where a picture cannot be decoded.
        distances: distance to the training pictures, float32 (pictures,); 0 without a detector.
        failures: the reason, by position, for each picture that cannot be decoded.
        paths: the pictures; None for one that was not given as a path.
    """

    probabilities: NDArray[np.float32]
    distances: NDArray[np.float32]
    failures: dict[int, str]
    paths: list[Path | None]
