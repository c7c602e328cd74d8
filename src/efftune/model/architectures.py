"""The model family in Keras: one graph per variant, whichever file its weights come from.

B0 to B7 and V2 are those of `keras.applications`, with the preprocessing that the published weights
were trained with; EfficientNet-Lite is our own (`lite`). All take float32 pixels, 0 to 255, and use
the same layer names: `stem_conv`, `block1a_…`, `top_activation`.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, TypedDict, Unpack

import keras
from keras import layers

from efftune.errors import UsageError, unknown_name
from efftune.model import catalogue, graphs, lite
from efftune.model.initial_weights import drawn_by_numpy
from efftune.model.tensors import set_weights
from efftune.model.weights import download, readers
from efftune.model.weights_table import OWN, Graph
from efftune.system.progress import Progress, silent

Pooling = Literal["avg", "max"]


@drawn_by_numpy()
def backbone(
    name: str, image_size: int, drop_connect_rate: float = 0.0, graph: Graph = OWN
) -> keras.Model:
    """A variant up to global average pooling, with random weights.

    Args:
        name: as `efftune models` lists it.
        image_size: side of the input square, in pixels.
        drop_connect_rate: probability, 0 to 1, of skipping a residual block at the top of the
            network in a training step; lower blocks in proportion to their depth. Source: Huang et
            al., "Deep Networks with Stochastic Depth" (2016), https://arxiv.org/abs/1603.09382.
        graph: padding and preprocessing.

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
        build_published = getattr(
            keras.applications, f"EfficientNet{entry.short_name.upper().replace('-', '')}"
        )
        pixels = keras.Input((image_size, image_size, 3), name="pixels")
        published = build_published(
            include_top=False, weights=None, input_tensor=pixels, pooling="avg"
        )
        model = keras.Model(pixels, published.output, name=name)
        for layer in model.layers:
            if isinstance(layer, layers.Rescaling | layers.Normalization):
                layer.name = type(layer).__name__.lower()  # without Keras' running number
    for layer in model.layers:
        if isinstance(layer, layers.Normalization) and layer.input_mean is None:
            readers.normalize(layer)
        if isinstance(layer, layers.Dropout):
            # keras.applications builds its graphs with the same rate as ours.
            layer.rate *= drop_connect_rate / lite.DROP_CONNECT_RATE
    return model if graph == OWN else graphs.rebuilt(model, graph)


def pretrained(
    entry: catalogue.Model,
    image_size: int,
    weights_file: download.WeightsFile,
    drop_connect_rate: float = 0.0,
) -> tuple[keras.Model, readers.Head | None]:
    """Like `backbone`, with loaded weights; and the head from the same file, if it has one.

    Raises:
        DataError: the weights are not the published ones, are damaged, or belong to another model.
    """
    model = backbone(entry.name, image_size, drop_connect_rate, weights_file.graph)
    if weights_file.path is None:
        return model, None
    if weights_file.published is not None:
        weights_file.published.require_published(weights_file.path)
    return model, readers.load(model, weights_file.path)


class BuildOptions(TypedDict, total=False):
    """Types of the keyword arguments of `build`, for its callers."""

    weights: str | Path | None
    include_top: bool
    pooling: Pooling | None
    image_size: int
    drop_connect_rate: float
    dropout: float
    on_progress: Progress


@dataclass(frozen=True)
class _Options:
    """The same arguments with their defaults."""

    weights: str | Path | None = "imagenet"
    include_top: bool = True
    pooling: Pooling | None = "avg"
    image_size: int = 0
    drop_connect_rate: float = 0.2
    dropout: float = 0.2
    on_progress: Progress = silent


@drawn_by_numpy()
def build(name: str, num_classes: int = 1000, **options: Unpack[BuildOptions]) -> keras.Model:
    """Build a Keras model of the family, ready to be compiled.

    Args:
        name: as `efftune models` lists it.
        num_classes: number of classes, 1 or more.
        **options: `weights="imagenet"`: the name of published weights, downloaded if needed; None
            for random weights; or a file (`.h5`, `.weights.h5`, `.keras`, `.npz`, `.safetensors`,
            `.pth`). A head with `num_classes` classes is loaded from it, too; otherwise the head is
            random.
            `include_top=True`: add dropout and a dense softmax layer, `predictions`; without it the
            model outputs features.
            `pooling="avg"`: without a top, how the last activations are pooled: `avg`, `max`, or
            None for no pooling.
            `image_size=0`: side of the input square, in pixels; 0 means the model's native size.
            `drop_connect_rate=0.2`: see `backbone`. No weight depends on it.
            `dropout=0.2`: dropout rate before the softmax layer, 0 to 1.
            `on_progress`: called with `download`, the bytes received and the total.

    Returns:
        A model from float32 pixels (batch, size, size, 3), 0 to 255, to float32 probabilities
        (batch, num_classes), features (batch, features) or activations (batch, height, width,
        features).

    Raises:
        UsageError: an unknown name or option, a number out of range, or no such file.
        DataError: the weights cannot be downloaded, are damaged, or belong to another model.
    """
    entry = catalogue.model(name)
    valid = [field.name for field in fields(_Options)]
    for option in options:
        if option not in valid:
            raise unknown_name("option of build", option, valid)
    chosen = _Options(**options)
    _require_valid(num_classes, chosen)
    source = "none" if chosen.weights is None else chosen.weights
    weights_file = download.locate(entry, source, chosen.on_progress)
    image_size = chosen.image_size or entry.resolution
    model, head = pretrained(entry, image_size, weights_file, chosen.drop_connect_rate)
    if not chosen.include_top:
        return _with_pooling(model, chosen.pooling)
    x = layers.Dropout(chosen.dropout, name="top_dropout")(model.output)
    predictions = layers.Dense(num_classes, activation="softmax", name="predictions")
    classifier = keras.Model(model.input, predictions(x), name=model.name)
    if head is not None and len(head[1]) == num_classes:
        set_weights(predictions, list(head))
    return classifier


def _require_valid(num_classes: int, options: _Options) -> None:
    _require(num_classes >= 1, "num_classes", num_classes, "1 or more")
    _require(options.image_size >= 0, "image_size", options.image_size, "0 or more")
    _require(
        options.pooling in ("avg", "max", None), "pooling", options.pooling, "avg, max or None"
    )
    for name, rate in (
        ("drop_connect_rate", options.drop_connect_rate),
        ("dropout", options.dropout),
    ):
        _require(0 <= rate < 1, name, rate, "at least 0 and below 1")


def _with_pooling(model: keras.Model, pooling: Pooling | None) -> keras.Model:
    if pooling == "avg":
        return model
    activations = model.get_layer("top_activation").output
    if pooling is None:
        return keras.Model(model.input, activations, name=model.name)
    features = layers.GlobalMaxPooling2D(name="max_pool")(activations)
    return keras.Model(model.input, features, name=model.name)


def _require(condition: bool, name: str, value: object, valid: str) -> None:
    if not condition:
        raise UsageError(f"{name} must be {valid}. Received: {value!r}.")
