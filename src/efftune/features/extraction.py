"""Feature extraction: run the frozen backbone over pictures once, and cache its outputs.

Outputs are cached per picture and view, keyed by the picture's content and by all settings that
affect them. Adding ten pictures to ten thousand computes ten.
"""

import hashlib
import json
import pickle
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from efftune.data import augmentation, bit_depth, images, picture_bytes
from efftune.data.bit_depth import BitDepth
from efftune.data.examples import NO_TIME
from efftune.errors import BadImage, DataError
from efftune.features.cache import MAPPED_BYTES, SHARD_ROWS, CachedRows, Digest, FeatureCache
from efftune.features.views import MIRRORED, views_of
from efftune.model.backbone import FEATURES, POOLED, Backbone
from efftune.model.backbone import VERSION as BACKBONE_VERSION
from efftune.model.engines import running
from efftune.model.engines.engine import Precision
from efftune.model.engines.running import Loading
from efftune.recipe.inputs import Fit
from efftune.recipe.training import Flip, Strength
from efftune.system import files, helpers

WAITING_BYTES = 256 * 2**20  # limit of the rows computed and not yet written
_SMALLEST_PART = 32  # pictures; each part is a file for each view
OnDone = Callable[[], bool | None]
Place = tuple[str, int]  # an output of the backbone, and the number of a view


@dataclass(frozen=True)
class ExtractionSettings:
    """Settings that, with the backbone and a picture's content, determine the outputs.

    Attributes:
        fit: how pictures are fitted to the square input.
        precision: precision of inference.
        dtype: type of the cached activations; features are always float32.
        augment: strength of the augmented views.
        flip: whether views are flipped: not at all, horizontally, or vertically, too.
        seed: seed of the augmentation.
        depth: which values of pictures of more than 8 bits become black and white.
        mapped_bytes: limit of the cached bytes that are memory-mapped at once; does not affect the
            outputs.
        part: number of views that are computed before it is asked whether that is enough; neither.
        shares: whether other machines are asked for rows and given them, if that is asked for (see
            `shared_cache`); neither.
    """

    fit: Fit
    precision: Precision
    dtype: str = "float16"
    augment: Strength = "standard"
    flip: Flip = "yes"
    seed: int = 0
    depth: BitDepth = bit_depth.UNKNOWN
    mapped_bytes: int = MAPPED_BYTES
    part: int = SHARD_ROWS
    shares: bool = True

    def key(self, backbone: Backbone, place: Place, outputs: Sequence[str] = (FEATURES,)) -> str:
        """The name of the cache folder, a hash of all settings and code versions that matter.

        Args:
            backbone: the frozen backbone.
            place: the cached output and view.
            outputs: all outputs computed together. Other combinations may differ by rounding, and
                a run must not depend on what earlier runs have cached.
        """
        output, view = place
        settings: dict[str, Any] = {
            "weights": backbone.weights,
            "image_size": backbone.image_size,
            "output": output,
            "outputs": list(outputs),
            "fit": self.fit,
            "precision": self.precision,
            "dtype": self.dtype_of(output),
            "versions": [*images.versions(), BACKBONE_VERSION, backbone.engine.version()],
        }
        if backbone.engine.NAME != "openvino":  # caches of earlier versions name no engine
            settings["engine"] = [backbone.engine.NAME, backbone.device]
        if self.depth != bit_depth.UNKNOWN:
            settings["depth"] = asdict(self.depth)
        if view == MIRRORED:
            settings["view"] = "mirrored"
        elif view:
            views = {"augment": self.augment, "flip": self.flip, "seed": self.seed, "view": view}
            settings |= views | {"augmentation": augmentation.VERSION}
        text = json.dumps(settings, sort_keys=True)
        return f"{backbone.entry.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def dtype_of(self, output: str) -> str:
        """The type in which an output is cached."""
        return "float32" if output in POOLED else self.dtype


@dataclass(frozen=True)
class Features:
    """Outputs of the frozen backbone for many pictures. Pictures that failed have no rows.

    Attributes:
        rows: cached rows by output and view.
        sha256s: content hash by path, for each file that could be read.
        failures: reason by path, for each picture that could not be read or decoded.
        computed: number of pictures that were not in the cache.
    """

    rows: dict[Place, CachedRows]
    sha256s: dict[Path, str]
    failures: dict[Path, str]
    computed: int

    def subset(self, pictures: NDArray[np.int64]) -> "Features":
        """The same with the rows of some pictures only, in the order given."""
        rows = {place: rows.subset(pictures) for place, rows in self.rows.items()}
        return replace(self, rows=rows)

    def pooled(self, view: int = 0) -> NDArray[np.float32]:
        """The features, float32 (pictures, features): of all stages if computed, else of the last.

        Memory-mapped from a temporary file with 5 to 15 kB per picture.
        """
        (rows,) = (self.rows[output, view] for output in POOLED if (output, view) in self.rows)
        values: NDArray[np.float32] = files.temporary_array((len(rows), *rows.shape), rows.dtype)
        for i in range(len(rows)):
            values[i] = rows[i]
        return values


def extract(
    paths: Sequence[Path],
    backbone: Backbone,
    settings: ExtractionSettings,
    on_done: OnDone = lambda: None,
    *,
    outputs: Sequence[str] = (FEATURES,),
    views: Sequence[int] = (0,),
) -> Features:
    """Run the frozen backbone over pictures that are not in the cache yet.

    Memory does not grow with the number of pictures: 256 MiB of decoded pictures and
    `WAITING_BYTES` of rows.

    Args:
        paths: the pictures.
        backbone: the backbone; built and compiled only if a picture has to be computed.
        settings: settings of the extraction.
        on_done: called after each view of each picture, from several threads. Once it returns
            true, no more pictures are read than are being computed: they fail for lack of time.
        outputs: as for `Backbone.pretrained`. If empty, pictures are only read and decoded, to
            find those that fail.
        views: numbers of the views; 0 is the unaugmented picture, `MIRRORED` its mirror image.

    Returns:
        Rows for each output and view, one per readable picture, in the order of `paths`.
    """
    work = _Extraction(paths, backbone, settings, on_done, (outputs, views))
    dtypes = [settings.dtype_of(output) for output in outputs]
    network = backbone.pretrained(outputs, precision=settings.precision, dtypes=dtypes)
    for part in work.parts():
        try:
            running.run(network, part, work.loading, work.deliver, views=len(views))
        finally:  # so that an interrupted run does not lose what it has computed
            work.store()
        work.share()
    return work.result()


class _Extraction:
    """One pass over pictures: read, look up in the cache; decode and compute if missing.

    Pictures are identified by their index in `paths`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        backbone: Backbone,
        settings: ExtractionSettings,
        on_done: OnDone,
        outputs_and_views: tuple[Sequence[str], Sequence[int]],
    ):
        self.paths = paths
        self.settings = settings
        self.size = backbone.image_size
        self.on_done = on_done
        self._call = helpers.caller(len(paths))
        self.outputs, self.views = outputs_and_views
        root = files.cache_folder() / "features"
        place_count = max(1, len(self.outputs) * len(self.views))
        self.caches = {
            (output, view): FeatureCache(
                root / settings.key(backbone, (output, view), self.outputs),
                settings.dtype_of(output),
                backbone.shape(output),
                settings.mapped_bytes // place_count,
            )
            for output in self.outputs
            for view in self.views
        }
        if settings.shares:
            for cache in self.caches.values():
                cache.begin_to_share()
        self.digests: dict[int, Digest] = {}
        self.failures: dict[Path, str] = {}
        self.computed = 0
        self._is_enough = False
        self._part = range(0)
        self._waiting: dict[Place, NDArray[Any]] = {}
        self._delivered: Counter[int] = Counter()
        self._lock = threading.Lock()

    def parts(self) -> Iterator[range]:
        """The pictures in parts whose rows fit into `WAITING_BYTES`."""
        caches = self.caches.values()
        row_bytes = sum(cache.dtype.itemsize * int(np.prod(cache.shape)) for cache in caches)
        fewer = max(_SMALLEST_PART, self.settings.part // max(1, len(self.views)))
        most = min(SHARD_ROWS, self.settings.part, fewer)
        step = max(1, min(most, WAITING_BYTES // max(1, row_bytes)))
        for start in range(0, len(self.paths), step):
            self._part = range(start, min(start + step, len(self.paths)))
            self._waiting = {
                place: cache.room(len(self._part)) for place, cache in self.caches.items()
            }
            yield self._part

    @property
    def loading(self) -> Loading[int]:
        """How pictures become the views to run the network on."""
        return Loading(self._read, views_of, self._failed, self._call)

    def _read(self, i: int) -> tuple[Any, ...] | None:
        """What `views_of` is called with; None if all is cached."""
        if self._is_enough:
            raise BadImage(NO_TIME)
        content = picture_bytes.read(self.paths[i])
        digest = self.digests[i] = hashlib.sha256(content).digest()
        sent = pickle.PickleBuffer(content)  # not copied to be sent
        if not self.caches:
            self._call(views_of, sent, digest, self.size, self.settings, (0,))
        if not all(digest in cache for cache in self.caches.values()):
            return sent, digest, self.size, self.settings, self.views
        self._count_all()
        return None

    def _failed(self, i: int, reason: str) -> None:
        self.failures[self.paths[i]] = reason
        self._count_all()

    def deliver(self, i: int, number: int, outputs: list[NDArray[Any]]) -> None:
        """Collect the network's outputs for a view."""
        row = i - self._part.start
        for output, values in zip(self.outputs, outputs, strict=True):
            place = output, self.views[number]
            waiting = self.caches[place].values_in(self._waiting[place])
            waiting[row] = values.view(waiting.dtype)
        with self._lock:
            self._delivered[i] += 1
        self._count()

    def _count_all(self) -> None:
        for _ in self.views:
            self._count()

    def _count(self) -> None:
        if self.on_done():
            self._is_enough = True

    def store(self) -> None:
        """Write the rows computed for the current part to the caches."""
        complete = [i for i, count in sorted(self._delivered.items()) if count == len(self.views)]
        self.computed += len(complete)
        self._delivered.clear()
        new = np.array(complete, np.int64) - self._part.start
        for place, cache in self.caches.items():
            waiting = self._waiting.pop(place)
            rows = waiting if len(new) == len(waiting) else waiting[new]
            cache.add_filled([self.digests[i] for i in complete], rows)

    def share(self) -> None:
        """Give other machines what was stored, unless the time is over."""
        if not self._is_enough:
            for cache in self.caches.values():
                cache.share()

    def result(self) -> Features:
        sha256s = {self.paths[i]: digest.hex() for i, digest in sorted(self.digests.items())}
        readable = [i for i, path in enumerate(self.paths) if path not in self.failures]
        digests = [self.digests[i] for i in readable]
        rows = {place: CachedRows(cache, digests) for place, cache in self.caches.items()}
        return Features(rows, sha256s, self.failures, self.computed)


def extract_pooled(
    backbone: Backbone,
    paths: Sequence[Path],
    settings: ExtractionSettings,
    on_progress: Callable[[], None],
    *,
    output: str = FEATURES,
    mirrored: bool = False,
) -> NDArray[np.float32]:
    """Pooled features of pictures, computed in the same way as by the saved classifier.

    Args:
        backbone: the backbone, fine-tuned or not.
        paths: pictures that could be decoded before.
        settings: how pictures are decoded.
        on_progress: called after each picture, from several threads.
        output: one of features.
        mirrored: whether to average over each picture and its mirror image.

    Returns:
        Features, float32 (pictures, features), memory-mapped from a temporary file.

    Raises:
        DataError: a picture cannot be decoded any more.
    """
    features: NDArray[np.float32] = files.temporary_array(
        (len(paths), *backbone.shape(output)), np.float32
    )

    def read(i: int) -> tuple[Any, ...]:
        content = pickle.PickleBuffer(picture_bytes.read(paths[i]))
        return content, b"", backbone.image_size, settings, (0,)

    def failed(i: int, reason: str) -> NoReturn:
        raise DataError(f"{paths[i]} changed during the run: {reason}. Start again.")

    def deliver(i: int, _view: int, outputs: list[NDArray[np.float32]]) -> None:
        features[i] = outputs[0]
        on_progress()

    network = backbone.trained(output, mirrored=mirrored)
    loading = Loading(read, views_of, failed, helpers.caller(len(paths)))
    running.run(network, range(len(paths)), loading, deliver)
    return features
