"""The whole family as Keras models: one graph a variant, whatever its weights come from.

B0 to B7 and V2 are those of `keras.applications`, with the preprocessing that the published weights
were trained with; EfficientNet-Lite is our own (`lite`). All take float32 pixels, 0 to 255, and
name their layers alike: `stem_conv`, `block1a_…`, `top_activation`.
"""

from pathlib import Path
from typing import Literal

import keras
from keras import layers

from efftune.errors import UsageError
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
    found: download.Found,
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


def build(  # noqa: PLR0913  (a model's usual choices)
    name: str,
    num_classes: int = 1000,
    *,
    weights: str | Path | None = "imagenet",
    include_top: bool = True,
    pooling: Pooling | None = "avg",
    image_size: int = 0,
    drop_connect_rate: float = 0.2,
    dropout: float = 0.2,
    on_progress: Progress = silent,
) -> keras.Model:
    """A Keras model of the family, ready to be compiled.

    Args:
        name: as `efftune models` lists it.
        num_classes: how many probabilities it gives, 1 or more.
        weights: `imagenet`, which downloads them if need be; None for random ones; or a file
            (`.h5`, `.weights.h5`, `.keras`, `.npz`, `.pth`). Where its classes are as many, its
            head is loaded, too; else the head is random.
        include_top: with dropout and a dense softmax layer, `predictions`. Otherwise the model
            gives features.
        pooling: without top: of the last activations, `avg`, `max`, or None for the activations.
        image_size: side of the input square, in pixels; 0 means the model's own.
        drop_connect_rate: see `backbone`. No weight depends on it.
        dropout: rate before the softmax layer, 0 to 1.
        on_progress: called with `download`, the bytes that are here and their total.

    Returns:
        A model from float32 pixels (batch, size, size, 3), 0 to 255, to float32 probabilities
        (batch, num_classes), features (batch, features) or activations (batch, height, width,
        features).

    Raises:
        UsageError: an unknown name, a number out of range, or no such file.
        DataError: the weights cannot be downloaded, are damaged, or fit another model.
    """
    entry = catalogue.model(name)
    _require(num_classes >= 1, "num_classes", num_classes, "1 or more")
    _require(image_size >= 0, "image_size", image_size, "0 or more")
    _require(pooling in ("avg", "max", None), "pooling", pooling, "avg, max or None")
    _require(0 <= drop_connect_rate < 1, "drop_connect_rate", drop_connect_rate, "0 to below 1")
    _require(0 <= dropout < 1, "dropout", dropout, "0 to below 1")
    found = download.located(entry, "none" if weights is None else weights, on_progress)
    model, head = pretrained(entry, image_size or entry.resolution, found, drop_connect_rate)
    if not include_top:
        return _pooled(model, pooling)
    x = layers.Dropout(dropout, name="top_dropout")(model.output)
    predictions = layers.Dense(num_classes, activation="softmax", name="predictions")
    whole = keras.Model(model.input, predictions(x), name=model.name)
    if head is not None and len(head[1]) == num_classes:
        predictions.set_weights(list(head))
    return whole


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
