"""The pretrained backbone: built in Keras, split at a block, run by an engine."""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from efftune.errors import unknown_name
from efftune.model import catalogue
from efftune.model.engines import devices
from efftune.model.engines.devices import Device
from efftune.model.engines.engine import Engine, Network, Precision
from efftune.model.tensors import set_weights
from efftune.model.weights import download
from efftune.model.weights.download import WeightsFile
from efftune.system import files
from efftune.system.progress import Progress, silent

if TYPE_CHECKING:
    import keras

    from efftune.model.ensemble import Weights
    from efftune.model.folded_layers import Arithmetic
    from efftune.model.weights.readers import Head
    from efftune.recipe.recipe import Recipe

# Outputs of float32 vectors; others are the activations at the input of a block.
FEATURES = "features"  # after global average pooling
STAGE_FEATURES = "features of all stages"  # the same behind the mean activations between stages
MEMBER_FEATURES = "features of all members"  # those of the networks of an ensemble, side by side
POOLED = (FEATURES, STAGE_FEATURES)
VERSION = 2  # part of every cache key: increment it when the features of a backbone change


class Backbone:
    """A pretrained network up to global average pooling.

    Keras is imported only when `keras_model` is first used.

    Attributes:
        entry: its row in the catalogue.
        image_size: side of the input square, in pixels.
        weights_file: of the pretrained weights.
        drop_connect_rate: see `architectures.backbone`.
        device: where it is computed.
        weights_changed: whether the Keras weights differ from the weights file, by training or
            because they are random.
    """

    def __init__(
        self,
        name: str,
        image_size: int = 0,
        *,
        weights: "str | WeightsFile" = "imagenet",
        drop_connect_rate: float = 0.0,
        device: Device = "cpu",
        on_progress: Progress = silent,
    ):
        """Select a model and locate its weights.

        Args:
            name: as `efftune models` lists it.
            image_size: side of the input square, in pixels; 0 means the model's native size.
            weights: the name of published weights, such as `imagenet`, downloaded if needed; `none`
                for random weights; or a file, which may have been located.
            drop_connect_rate: see `architectures.backbone`.
            device: from `devices.chosen`.
            on_progress: called with `download`, the bytes received and the total.

        Raises:
            UsageError: an unknown name, the weights are not installed, or there is no such file.
            DataError: the weights cannot be downloaded.
        """
        self.entry = catalogue.model(name)
        self.image_size = image_size or self.entry.resolution
        self.weights_changed = weights == "none"
        if not isinstance(weights, WeightsFile):
            weights = download.locate(self.entry, weights, on_progress)
        self.weights_file = weights
        self.drop_connect_rate = drop_connect_rate
        self.device = device
        self._members: list[Weights] = []
        self._members_from = ""  # the first block that they do not share
        self._networks: dict[tuple[Any, ...], Network] = {}

    @classmethod
    def of(cls, recipe: "Recipe", device: Device, on_progress: Progress = silent) -> "Backbone":
        """The model that a recipe names; see `__init__`."""
        settings = recipe.backbone
        return cls(
            settings.model,
            settings.image_size,
            weights="none" if recipe.phases == ("scratch",) else settings.weights,
            drop_connect_rate=recipe.optimization.drop_connect_rate,
            device=device,
            on_progress=on_progress,
        )

    @property
    def engine(self) -> Engine:
        """What computes it."""
        return devices.engine(self.device)

    @cached_property
    def keras_model(self) -> "keras.Model":
        """Maps float32 pixels (batch, size, size, 3), 0 to 255, to features (batch, features).

        Raises:
            DataError: the weights file is not the published one, is damaged, or belongs to another
                model.
        """
        return self._loaded[0]

    @property
    def weights(self) -> str:
        """What identifies the pretrained network: checksum and graph; `none` for random weights."""
        return self.weights_file.identity

    @cached_property
    def published_head(self) -> "Head | None":
        """Kernel and bias of the head in the weights file, if it has one."""
        return self._loaded[1]

    @cached_property
    def _loaded(self) -> tuple["keras.Model", "Head | None"]:
        from efftune.model import architectures

        return architectures.pretrained(
            self.entry, self.image_size, self.weights_file, self.drop_connect_rate
        )

    @cached_property
    def momentum(self) -> float:
        """The decay per step of BatchNorm's moving averages with which the model was published.

        Training in few steps sets another in the layers.
        """
        from keras import layers

        norms = (x for x in self.keras_model.layers if isinstance(x, layers.BatchNormalization))
        return float(next(norms).momentum)

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """The names of the blocks, lowest first, such as `block1a` to `block7a`."""
        names = (re.match(r"(block\d+[a-z]+)_", layer.name) for layer in self.keras_model.layers)
        return tuple(dict.fromkeys(name[1] for name in names if name))

    def block(self, name: str) -> str:
        """The full name of a block: `block6` means `block6a`, `last` the last stage's first block.

        Raises:
            UsageError: there is no such block.
        """
        letters = "abcdefghijklmnopqrstuvwxyz"
        if name == "last":
            name = self.blocks[-1].rstrip(letters)
        for block in self.blocks:
            if name in (block, block.rstrip(letters)):
                return block
        raise unknown_name("block", name, self.blocks)

    def shape(self, output: str) -> tuple[int, ...]:
        """Shape of an output for one picture; see `pretrained`."""
        if output in (FEATURES, MEMBER_FEATURES):
            members = len(self._members) if output == MEMBER_FEATURES else 1
            return (members * self.entry.features,)
        return tuple(self._output(output).shape[1:])

    def step_bytes(self, block: str) -> int:
        """Memory of a training step from a block up, for one picture, at most: what layers put out.

        Measured, it was 0.4 to 1.0 of this (B0, Lite0 and V2-B0 with all or the upper blocks).
        """
        start = self.keras_model.input if block == "pixels" else self._output(self.block(block))
        reached, total = {id(start)}, 0
        for layer in self.keras_model.layers:
            inputs = layer.input if isinstance(layer.input, list) else [layer.input]
            if inputs and id(inputs[0]) in reached:
                reached.add(id(layer.output))
                total += 4 * math.prod(layer.output.shape[1:])
        return total

    def cut(self, block: str) -> tuple["keras.Model", "keras.Model"]:
        """Split the network at a block into two models that share its weights.

        Args:
            block: the first block of the upper part.

        Returns:
            The lower part, from pixels to the activations at the block's input; and the upper
            part, from those to features. Composed, they are the whole network.
        """
        import keras

        model, activations = self.keras_model, self._output(block)
        lower = keras.Model(model.input, activations, name="lower")
        return lower, keras.Model(activations, model.output, name="upper")

    def upper(self, block: str, arithmetic: "Arithmetic") -> "keras.Model":
        """The part from a block up, with every BatchNorm folded; see `folding.folded`.

        Args:
            block: its first block; `block1a` excludes the stem, `pixels` gives the whole network.
            arithmetic: how to compute.
        """
        from efftune.model import folding

        model = self.keras_model
        start = model.input if block == "pixels" else self._output(block)
        return folding.folded(model, start, [model.output], arithmetic, input_name=block)

    def randomly_initialized(self, seed: int) -> "Backbone":
        """The same network with random weights.

        Args:
            seed: seed of the initialization.
        """
        from efftune.model import initial_weights

        settings: Any = {"weights": "none", "drop_connect_rate": self.drop_connect_rate}
        backbone = Backbone(self.entry.name, self.image_size, device=self.device, **settings)
        initial_weights.initialize(backbone.keras_model, seed)
        return backbone

    def pretrained(
        self, outputs: Sequence[str] = (FEATURES,), *, precision: Precision, dtypes: Sequence[str]
    ) -> Network:
        """The pretrained network as the engine runs it, made once.

        Args:
            outputs: `FEATURES`; `STAGE_FEATURES`; or names of blocks for the activations at their
                input (height, width, channels).
            precision: of the computation.
            dtypes: of the outputs.
        """
        key = (tuple(outputs), precision, tuple(dtypes))
        if key not in self._networks:
            self._networks[key] = self.engine.network(
                lambda: self._part(outputs),
                size=self.image_size,
                precision=precision,
                dtypes=dtypes,
                cached=self.conversion(self.engine, outputs),
            )
        return self._networks[key]

    def trained(self, output: str, *, mirrored: bool) -> Network:
        """The network with its weights of now, in float32, as the engine runs it.

        Args:
            output: `FEATURES`, `STAGE_FEATURES` or `MEMBER_FEATURES`.
            mirrored: average the features of each picture and its mirror image.
        """
        return self.engine.network(
            lambda: self.to_features(output), size=self.image_size, mirrored=mirrored
        )

    def conversion(self, engine: Engine, outputs: Sequence[str] = (FEATURES,)) -> Path:
        """The folder where an engine may keep what it makes of the pretrained network."""
        determinants = {
            "weights": self.weights,
            "image_size": self.image_size,
            "outputs": tuple(outputs),
            "versions": [VERSION, version("keras"), engine.version()],
        }
        digest = hashlib.sha256(json.dumps(determinants).encode()).hexdigest()[:16]
        return files.cache_folder() / "backbones" / f"{self.entry.name}-{digest}"

    def features_of(self, head: NDArray[np.float32]) -> str:
        """The output that a head's kernel, shape (features, classes), takes."""
        if self._members:
            return MEMBER_FEATURES
        return FEATURES if len(head) == self.entry.features else STAGE_FEATURES

    def add_member(self, block: str) -> None:
        """Keep the present weights, from a block up, as a member of an ensemble.

        Args:
            block: the first one that was trained, the same for all members.
        """
        from efftune.model import ensemble

        self._members.append(ensemble.weights_above(self.keras_model, self._output(block)))
        self._members_from = block
        self.weights_changed = True

    def restore(self, weights: list[NDArray[np.float32]]) -> None:
        """Set the weights to the pretrained ones, which training changed; forget all members."""
        set_weights(self.keras_model, weights)
        self.weights_changed = False
        self._members.clear()

    def to_features(self, output: str) -> "keras.Model":
        """The network from pixels to an output of features."""
        import keras

        if output == FEATURES:
            return self.keras_model
        if output == MEMBER_FEATURES:
            from efftune.model import ensemble

            start = self._output(self._members_from)
            return ensemble.combined(self.keras_model, start, self._members)
        return keras.Model(self.keras_model.input, self._output(output), name=self.entry.short_name)

    def _part(self, outputs: Sequence[str]) -> "keras.Model":
        import keras

        tensors = [self._output(output) for output in outputs]
        return keras.Model(self.keras_model.input, tensors, name=self.entry.short_name)

    def _output(self, name: str) -> "keras.KerasTensor":
        if name == FEATURES:
            return self.keras_model.output
        if name == STAGE_FEATURES:
            return self._stage_features
        layers = self.keras_model.layers
        first = next(layer for layer in layers if layer.name.startswith(f"{name}_"))
        return first.input

    @cached_property
    def _stage_features(self) -> "keras.KerasTensor":
        """The mean activations at the end of each stage but the last, then the features.

        Source: Evci et al., "Head2Toe: Utilizing Intermediate Representations for Better Transfer
        Learning" (2022), https://arxiv.org/abs/2201.03529. Between the blocks of a stage, the
        activations differ little.
        """
        from keras import layers

        ends = [block for block in self.blocks[1:] if block.endswith("a")]
        means = [
            layers.GlobalAveragePooling2D(name=f"{block}_mean")(self._output(block))
            for block in ends
        ]
        return layers.Concatenate(name="stages")([*means, self.keras_model.output])
