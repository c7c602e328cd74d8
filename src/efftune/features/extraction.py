"""The frozen part of the network, run once over the pictures and kept on disk.

What it computes is kept per picture and view, found again by the picture's content and by
everything else that shapes it. Adding ten pictures to ten thousand computes ten.
"""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from efftune.data import augmentation, images
from efftune.data.images import Pixels
from efftune.errors import BadImage, DataError
from efftune.features.cache import MAPPED_BYTES, SHARD_ROWS, CachedRows, Digest, FeatureCache
from efftune.model.backbone import FEATURES, Backbone
from efftune.model.backbone import VERSION as BACKBONE_VERSION
from efftune.model.engines import openvino_engine
from efftune.model.engines.openvino_engine import Network, Precision
from efftune.recipe.inputs import Fit
from efftune.recipe.training import Flip, Strength
from efftune.system import files

if TYPE_CHECKING:
    pass

WAITING_BYTES = 256 * 2**20  # rows computed and not yet written, at most
MIRRORED = -1  # the view with left and right changed and nothing else
Place = tuple[str, int]  # an output of the frozen part, and a view


@dataclass(frozen=True)
class ExtractionSettings:
    """All that shapes what is computed of a picture, beside its content.

    Attributes:
        fit: how pictures become squares.
        precision: in which the network computes.
        dtype: in which activations are kept; features are float32.
        augment: how far views go.
        flip: whether views change left and right, or top and bottom too.
        seed: of the views.
        mapped_bytes: how much of the rows may be in memory at a time when they are used; shapes
            nothing.
    """

    fit: Fit
    precision: Precision
    dtype: str = "float16"
    augment: Strength = "standard"
    flip: Flip = "yes"
    seed: int = 0
    mapped_bytes: int = MAPPED_BYTES

    def key(self, backbone: Backbone, place: Place, outputs: Sequence[str] = (FEATURES,)) -> str:
        """A name for these settings and the code behind them.

        Args:
            backbone: the frozen part.
            place: the output and the view that are kept.
            outputs: all that are computed together. With others the last digits may differ, and a
                run must not depend on what other runs have left behind.
        """
        output, view = place
        shaping: dict[str, Any] = {
            "weights": backbone.weights,
            "image_size": backbone.image_size,
            "output": output,
            "outputs": list(outputs),
            "fit": self.fit,
            "precision": self.precision,
            "dtype": self.dtype_of(output),
            "versions": [images.VERSION, BACKBONE_VERSION, version("openvino")],
        }
        if view == MIRRORED:
            shaping["view"] = "mirrored"
        elif view:
            views = {"augment": self.augment, "flip": self.flip, "seed": self.seed, "view": view}
            shaping |= views | {"augmentation": augmentation.VERSION}
        text = json.dumps(shaping, sort_keys=True)
        return f"{backbone.entry.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def dtype_of(self, output: str) -> str:
        """The type in which an output is kept."""
        return "float32" if output == FEATURES else self.dtype


@dataclass(frozen=True)
class Features:
    """What the frozen part says of many pictures. Pictures that failed have no rows.

    Attributes:
        rows: by output and view.
        sha256s: content hash by path, of each file that could be read.
        failures: by path, why a picture could not be decoded.
        computed: how many pictures were not found on disk.
    """

    rows: dict[Place, CachedRows]
    sha256s: dict[Path, str]
    failures: dict[Path, str]
    computed: int

    def pooled(self, view: int = 0) -> NDArray[np.float32]:
        """The features after global average pooling, float32 (pictures, features).

        Memory-mapped from a temporary file: 5 kB a picture.
        """
        rows = self.rows[FEATURES, view]
        values: NDArray[np.float32] = files.temporary_array((len(rows), *rows.shape), rows.dtype)
        for i in range(len(rows)):
            values[i] = rows[i]
        return values


def extract(
    paths: Sequence[Path],
    backbone: Backbone,
    settings: ExtractionSettings,
    on_done: Callable[[], None] = lambda: None,
    *,
    outputs: Sequence[str] = (FEATURES,),
    views: Sequence[int] = (0,),
) -> Features:
    """Run the frozen part over pictures, or take what it says from disk.

    Memory is bounded whatever the number of pictures: 256 MiB of decoded pictures and
    `WAITING_BYTES` of rows.

    Args:
        paths: the pictures.
        backbone: made and compiled only if a picture has to be computed.
        settings: how to compute.
        on_done: called after each view of each picture, from several threads.
        outputs: names of blocks, for the activations at their input, and `features`. Without any,
            pictures are read and decoded, and what fails is told.
        views: numbers of the augmented views to see; 0 is the picture itself, `MIRRORED` its
            mirror image.

    Returns:
        Rows for each output and view, one per readable picture, in the order of `paths`.
    """
    work = _Extraction(paths, backbone, settings, on_done, (outputs, views))
    network = Network(
        lambda: backbone.openvino_model(outputs),
        size=backbone.image_size,
        precision=settings.precision,
        dtypes=[settings.dtype_of(output) for output in outputs],
    )
    for part in work.parts():
        try:
            network.run(part, work.load, work.deliver, views=len(views))
        finally:  # an interrupted run keeps what it has computed
            work.keep()
    return work.result()


class _Extraction:
    """One pass over pictures. Each is read and looked up, and if it is new, decoded and computed.

    Pictures go by their position in `paths`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        backbone: Backbone,
        settings: ExtractionSettings,
        on_done: Callable[[], None],
        wanted: tuple[Sequence[str], Sequence[int]],
    ):
        self.paths = paths
        self.settings = settings
        self.size = backbone.image_size
        self.on_done = on_done
        self.outputs, self.views = wanted
        root = files.cache_folder() / "features"
        places = max(1, len(self.outputs) * len(self.views))
        self.stores = {
            (output, view): FeatureCache(
                root / settings.key(backbone, (output, view), self.outputs),
                settings.dtype_of(output),
                backbone.shape(output),
                settings.mapped_bytes // places,
            )
            for output in self.outputs
            for view in self.views
        }
        self.digests: dict[int, Digest] = {}
        self.failures: dict[Path, str] = {}
        self.computed = 0
        self._part = range(0)
        self._waiting: dict[Place, NDArray[Any]] = {}
        self._delivered: Counter[int] = Counter()
        self._lock = threading.Lock()

    def parts(self) -> Iterator[range]:
        """The pictures, as many at a time as may wait in memory until they are written."""
        stores = self.stores.values()
        row_bytes = sum(store.dtype.itemsize * int(np.prod(store.shape)) for store in stores)
        step = max(1, min(SHARD_ROWS, WAITING_BYTES // max(1, row_bytes)))
        for start in range(0, len(self.paths), step):
            self._part = range(start, min(start + step, len(self.paths)))
            self._waiting = {
                place: np.empty((len(self._part), *store.shape), store.dtype)
                for place, store in self.stores.items()
            }
            yield self._part

    def load(self, i: int) -> Pixels | None:
        """The views to run the network on; None if all is kept or cannot be had."""
        try:
            content = images.read(self.paths[i])
            digest = self.digests[i] = hashlib.sha256(content).digest()
            if not self.stores:
                images.decode(content, self.size, self.settings.fit)
            if not all(digest in store for store in self.stores.values()):
                return self._views(content, digest)
        except BadImage as error:
            self.failures[self.paths[i]] = error.reason
        for _ in self.views:
            self.on_done()
        return None

    def deliver(self, i: int, number: int, outputs: list[NDArray[Any]]) -> None:
        """Take in what the network says of a view."""
        at = i - self._part.start
        for output, values in zip(self.outputs, outputs, strict=True):
            waiting = self._waiting[output, self.views[number]]
            waiting[at] = values.view(waiting.dtype)
        with self._lock:
            self._delivered[i] += 1
        self.on_done()

    def keep(self) -> None:
        """Put what was computed of a part of the pictures on disk."""
        whole = [i for i, count in sorted(self._delivered.items()) if count == len(self.views)]
        self.computed += len(whole)
        self._delivered.clear()
        new = np.array(whole, np.int64) - self._part.start
        for place, store in self.stores.items():
            waiting = self._waiting.pop(place)
            rows = waiting if len(new) == len(waiting) else waiting[new]
            store.add([self.digests[i] for i in whole], rows)

    def result(self) -> Features:
        sha256s = {self.paths[i]: digest.hex() for i, digest in sorted(self.digests.items())}
        readable = [i for i, path in enumerate(self.paths) if path not in self.failures]
        digests = [self.digests[i] for i in readable]
        rows = {place: CachedRows(store, digests) for place, store in self.stores.items()}
        return Features(rows, sha256s, self.failures, self.computed)

    def _views(self, content: bytes, digest: Digest) -> Pixels:
        """The wanted views of a picture, uint8 (views, size, size, 3)."""
        pixels = images.decode(content, self.size, self.settings.fit)
        return np.stack([self._view(pixels, digest, view) for view in self.views])

    def _view(self, pixels: Pixels, digest: Digest, view: int) -> Pixels:
        if view in (0, MIRRORED):
            return pixels[:, ::-1] if view else pixels
        plan = augmentation.plan(
            self.settings.seed, digest, view, self.settings.augment, self.settings.flip
        )
        return augmentation.apply(pixels, plan)


def extract_pooled(
    backbone: Backbone,
    paths: Sequence[Path],
    fit: Fit,
    on_progress: Callable[[], None],
    *,
    mirrored: bool = False,
) -> NDArray[np.float32]:
    """What a network says of pictures before its head, as the saved classifier would compute it.

    Args:
        backbone: the network, tuned or not.
        paths: pictures that were decoded before.
        fit: how they become squares.
        on_progress: called after each, from several threads.
        mirrored: the mean over each picture and its mirror image.

    Returns:
        Float32 (pictures, features), in a temporary file.

    Raises:
        DataError: a picture cannot be decoded any more.
    """
    from efftune.model.engines.conversion import convert

    rows: NDArray[np.float32] = files.temporary_array(
        (len(paths), backbone.entry.features), np.float32
    )

    def load(i: int) -> Pixels:
        try:
            return images.decode(images.read(paths[i]), backbone.image_size, fit)[None]
        except BadImage as error:
            raise DataError(
                f"{paths[i]} was changed while the run went on: {error.reason}. Start again."
            ) from None

    def deliver(i: int, _square: int, outputs: list[NDArray[np.float32]]) -> None:
        rows[i] = outputs[0]
        on_progress()

    network = openvino_engine.Network(
        lambda: convert(backbone.keras_model, mirrored=mirrored), size=backbone.image_size
    )
    network.run(range(len(paths)), load, deliver)
    return rows
