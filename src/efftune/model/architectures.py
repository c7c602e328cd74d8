"""The whole family as Keras models: one graph a variant, whatever its weights come from.

B0 to B7 and V2 are those of `keras.applications`, with the preprocessing that the published weights
were trained with; EfficientNet-Lite is our own (`lite`). All take float32 pixels, 0 to 255, and
name their layers alike: `stem_conv`, `block1a_…`, `top_activation`.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypedDict, Unpack

import keras
from keras import layers

from efftune.errors import UsageError, unknown_name
from efftune.model import catalogue, lite
from efftune.model.weights import download, readers
from efftune.system.progress import Progress, silent

Pooling = Literal["avg", "max"]


def backbone(name: str, image_size: int, drop_connect_rate: float = 0.0) -> keras.Model:
    """A variant up to global average pooling, with random weights.

    Args:
        name: as `efftune models` lists it.
        image_size: side of the input square, in pixels.
        drop_connect_rate: how often the last block that adds its input is left out in training, 0
            to 1; lower blocks less, in proportion. Source: Huang et al., "Deep Networks with
            Stochastic Depth" (2016), https://arxiv.org/abs/1603.09382.

    Returns:
        A model from float32 pixels (batch, image_size, image_size, 3), 0 to 255, to float32
        features (batch, features).

    Raises:
        UsageError: there is no such model.
    """
    entry = catalogue.model(name)
    if name in lite.VARIANTS:
        model = lite.backbone(name, image_size)
    else:
        make = getattr(
            keras.applications, f"EfficientNet{entry.short_name.upper().replace('-', '')}"
        )
        pixels = keras.Input((image_size, image_size, 3), name="pixels")
        made = make(include_top=False, weights=None, input_tensor=pixels, pooling="avg")
        model = keras.Model(pixels, made.output, name=name)
        for layer in model.layers:
            if isinstance(layer, layers.Rescaling | layers.Normalization):
                layer.name = type(layer).__name__.lower()  # without a number that counts up
    for layer in model.layers:
        if isinstance(layer, layers.Normalization) and layer.input_mean is None:
            readers.normalize(layer)
        if isinstance(layer, layers.Dropout):
            # Keras' graphs are made with the same rate as ours.
            layer.rate *= drop_connect_rate / lite.DROP_CONNECT_RATE
    return model


def pretrained(
    entry: catalogue.Model,
    image_size: int,
    found: download.WeightsFile,
    drop_connect_rate: float = 0.0,
) -> tuple[keras.Model, readers.Head | None]:
    """As `backbone`, with weights; and the head that lies beside them, if there is one.

    Raises:
        DataError: the weights are not the published ones, are damaged, or fit another model.
    """
    model = backbone(entry.name, image_size, drop_connect_rate)
    if found.path is None:
        return model, None
    if found.checksum == entry.weights.checksum:
        entry.weights.require_published(found.path)
    return model, readers.load(model, found.path)


class BuildOptions(TypedDict, total=False):
    """Keyword arguments of `build`; see there."""

    weights: str | Path | None
    include_top: bool
    pooling: Pooling | None
    image_size: int
    drop_connect_rate: float
    dropout: float
    on_progress: Progress


_BUILD_DEFAULTS: dict[str, Any] = {
    "weights": "imagenet",
    "include_top": True,
    "pooling": "avg",
    "image_size": 0,
    "drop_connect_rate": 0.2,
    "dropout": 0.2,
    "on_progress": silent,
}


def build(name: str, num_classes: int = 1000, **options: Unpack[BuildOptions]) -> keras.Model:
    """A Keras model of the family, ready to be compiled.

    Args:
        name: as `efftune models` lists it.
        num_classes: number of probabilities, 1 or more.
        **options: `weights="imagenet"`, which downloads them if need be; None for random ones; or a
            file (`.h5`, `.weights.h5`, `.keras`, `.npz`, `.pth`). If its head has `num_classes`
            classes it is loaded, too; otherwise the head is random.
            `include_top=True` adds dropout and a dense softmax layer, `predictions`; without it the
            model gives features.
            `pooling="avg"`, without a top: of the last activations, `avg`, `max`, or None for the
            activations themselves.
            `image_size=0`: side of the input square, in pixels; 0 means the model's own.
            `drop_connect_rate=0.2`: see `backbone`. No weight depends on it.
            `dropout=0.2`: rate before the softmax layer, 0 to 1.
            `on_progress`: called with `download`, the bytes received and their total.

    Returns:
        A model from float32 pixels (batch, size, size, 3), 0 to 255, to float32 probabilities
        (batch, num_classes), features (batch, features) or activations (batch, height, width,
        features).

    Raises:
        UsageError: an unknown name or option, a number out of range, or no such file.
        DataError: the weights cannot be downloaded, are damaged, or fit another model.
    """
    entry = catalogue.model(name)
    chosen = SimpleNamespace(**(_BUILD_DEFAULTS | dict(options)))
    _require_valid(num_classes, chosen)
    source = "none" if chosen.weights is None else chosen.weights
    located = download.locate(entry, source, chosen.on_progress)
    image_size = chosen.image_size or entry.resolution
    model, head = pretrained(entry, image_size, located, chosen.drop_connect_rate)
    if not chosen.include_top:
        return _pooled(model, chosen.pooling)
    x = layers.Dropout(chosen.dropout, name="top_dropout")(model.output)
    predictions = layers.Dense(num_classes, activation="softmax", name="predictions")
    whole = keras.Model(model.input, predictions(x), name=model.name)
    if head is not None and len(head[1]) == num_classes:
        predictions.set_weights(list(head))
    return whole


def _require_valid(num_classes: int, options: SimpleNamespace) -> None:
    for name in vars(options):
        if name not in _BUILD_DEFAULTS:
            raise unknown_name("option of build", name, _BUILD_DEFAULTS)
    _require(num_classes >= 1, "num_classes", num_classes, "1 or more")
    _require(options.image_size >= 0, "image_size", options.image_size, "0 or more")
    _require(
        options.pooling in ("avg", "max", None), "pooling", options.pooling, "avg, max or None"
    )
    for name in ("drop_connect_rate", "dropout"):
        rate = getattr(options, name)
        _require(0 <= rate < 1, name, rate, "0 to below 1")


def _pooled(model: keras.Model, pooling: Pooling | None) -> keras.Model:
    if pooling == "avg":
        return model
    activations = model.get_layer("top_activation").output
    if pooling is None:
        return keras.Model(model.input, activations, name=model.name)
    features = layers.GlobalMaxPooling2D(name="max_pool")(activations)
    return keras.Model(model.input, features, name=model.name)


def _require(holds: bool, name: str, given: object, expected: str) -> None:
    if not holds:
        raise UsageError(f"{name} is out of its range: {expected}. Received: {given!r}.")
