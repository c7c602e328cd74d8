"""The frozen part of the network, run once over the pictures and kept on disk.

Features are kept per picture, found again by the picture's content and by everything else that
shapes them. Adding ten pictures to ten thousand computes ten.
"""

import hashlib
import io
import itertools
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efftune import files
from efftune.data import augmentation, images
from efftune.data.examples import SPLITS, Examples, Split
from efftune.data.images import Pixels
from efftune.errors import BadImage
from efftune.model.backbone import VERSION as BACKBONE_VERSION
from efftune.model.backbone import WIDTH, Backbone
from efftune.model.inference import Network, Precision, fastest_precision
from efftune.recipe import Fit, Recipe

Digest = bytes  # SHA-256 of a picture's file, 32 bytes
SHARD_ROWS = 4096


@dataclass(frozen=True)
class Settings:
    """All that shapes a picture's features, beside its content.

    Attributes:
        model: the backbone's name.
        weights: SHA-256 of its weights file.
        image_size: side of the square it sees, in pixels.
        width: values in one feature row.
        fit: how pictures become squares.
        views: augmented views beside the picture itself.
        seed: of the views.
        precision: in which the network computes.
    """

    model: str
    weights: str
    image_size: int
    width: int
    fit: Fit
    views: int
    seed: int
    precision: Precision

    @classmethod
    def of(
        cls, backbone: Backbone, *, fit: Fit, precision: Precision, views: int = 0, seed: int = 0
    ) -> "Settings":
        """The settings for a backbone."""
        return cls(
            model=backbone.entry.name,
            weights=backbone.entry.weights.sha256,
            image_size=backbone.image_size,
            width=WIDTH,
            fit=fit,
            views=views,
            seed=seed,
            precision=precision,
        )

    @property
    def key(self) -> str:
        """A name for these settings and the versions of the code behind them."""
        versions = [images.VERSION, BACKBONE_VERSION, version("openvino")]
        shaping = asdict(self) | {"versions": versions}
        if self.views:
            shaping["augmentation"] = augmentation.VERSION
        else:
            del shaping["seed"]
        text = json.dumps(shaping, sort_keys=True)
        return f"{self.model}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Features:
    """The features of many pictures.

    Attributes:
        values: float32, shape (pictures, 1 + views, width); the first view is the picture itself.
            Memory-mapped from a temporary file. Pictures that failed have no row.
        sha256s: content hash by path, of each file that could be read.
        failures: by path, why a picture could not be decoded.
        computed: how many pictures were not found on disk.
    """

    values: NDArray[np.float32]
    sha256s: dict[Path, str]
    failures: dict[Path, str]
    computed: int


def extract_splits(
    examples: Examples,
    backbone: Backbone,
    recipe: Recipe,
    on_progress: Callable[[int, int], None],
) -> dict[Split, Features]:
    """The features of each split.

    Training pictures are computed in the CPU's fastest precision and with the recipe's views; the
    pictures to judge by in float32 and as they are, so that the scores are those of the saved
    model on any machine.
    """
    held_out = Settings.of(backbone, fit=recipe.fit, precision="f32")
    train = Settings.of(
        backbone,
        fit=recipe.fit,
        precision=fastest_precision(),
        views=recipe.views,
        seed=recipe.seed,
    )
    paths = {split: [row.path for row in examples.of(split)] for split in SPLITS}
    total = sum(map(len, paths.values()))
    done = itertools.count(1)
    return {
        split: extract(
            paths[split],
            backbone,
            train if split == "train" else held_out,
            lambda: on_progress(next(done), total),
        )
        for split in SPLITS
    }


def extract(
    paths: Sequence[Path],
    backbone: Backbone,
    settings: Settings,
    on_done: Callable[[], None] = lambda: None,
) -> Features:
    """Compute the features of pictures, or take them from disk.

    Beside the result, memory is bounded whatever the number of pictures: 256 MiB of decoded
    pictures and one shard of rows. The result takes 4 · width · (1 + views) bytes a picture in a
    temporary file: 5 kB without views.

    Args:
        paths: the pictures.
        backbone: made and compiled only if a picture has to be computed.
        settings: what the features are to be.
        on_done: called after each picture, from several threads.

    Returns:
        One row per readable picture, in the order of `paths`.
    """
    work = _Extraction(paths, settings, on_done)
    network = Network(
        lambda: backbone.openvino_model,
        size=settings.image_size,
        views=settings.views + 1,
        precision=settings.precision,
    )
    step = max(1, SHARD_ROWS // (settings.views + 1))
    for start in range(0, len(paths), step):
        part = range(start, min(start + step, len(paths)))
        try:
            network.run(part, work.load, work.deliver)
        finally:  # an interrupted run keeps what it has computed
            work.keep(part)
    return work.result()


class _Extraction:
    """One pass over pictures. Each is read and looked up, and if it is new, decoded and computed.

    Pictures go by their position in `paths`.
    """

    def __init__(self, paths: Sequence[Path], settings: Settings, on_done: Callable[[], None]):
        shape = (settings.views + 1, settings.width)
        self.paths = paths
        self.settings = settings
        self.on_done = on_done
        self.store = _Store(files.cache_folder() / "features" / settings.key, shape)
        self.values = _temporary((len(paths), *shape))
        self.digests: dict[int, Digest] = {}
        self.failures: dict[Path, str] = {}
        self.computed: set[int] = set()

    def load(self, i: int) -> Pixels | None:
        """The pixels to run the network on; None if the rows are there or cannot be had."""
        try:
            content = images.read(self.paths[i])
            self.digests[i] = hashlib.sha256(content).digest()
            kept = self.store.get(self.digests[i])
            if kept is None:
                return _views(content, self.digests[i], self.settings)
            self.values[i] = kept
        except BadImage as error:
            self.failures[self.paths[i]] = error.reason
        self.on_done()
        return None

    def deliver(self, i: int, rows: NDArray[np.float32]) -> None:
        """Take in what the network says of a picture."""
        self.values[i] = rows
        self.computed.add(i)
        self.on_done()

    def keep(self, part: range) -> None:
        """Put what was computed of a part of the pictures on disk."""
        new = sorted(self.computed.intersection(part))
        self.store.add((self.digests[i], self.values[i]) for i in new)

    def result(self) -> Features:
        sha256s = {self.paths[i]: digest.hex() for i, digest in self.digests.items()}
        readable = [i for i, path in enumerate(self.paths) if path not in self.failures]
        values = _only(self.values, readable)
        return Features(values, sha256s, self.failures, len(self.computed))


def _views(content: bytes, digest: Digest, settings: Settings) -> Pixels:
    """The picture and its augmented views, uint8 (1 + views, size, size, 3)."""
    pixels = images.decode(content, settings.image_size, settings.fit)
    plans = (augmentation.plan(settings.seed, digest, i + 1) for i in range(settings.views))
    return np.stack([pixels, *(augmentation.apply(pixels, view) for view in plans)])


def _only(values: NDArray[np.float32], kept: Sequence[int]) -> NDArray[np.float32]:
    """The rows `kept` (ascending), moved up in place: there may be no memory for a copy."""
    for to, at in enumerate(kept):
        if to != at:
            values[to] = values[at]
    return values[: len(kept)]


def _temporary(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Zeros in a file without a name, which goes when the array goes."""
    if not np.prod(shape):
        return np.zeros(shape, np.float32)
    with tempfile.TemporaryFile(dir=files.cache_folder()) as stream:
        if hasattr(os, "posix_fallocate"):
            # A full disk must be an error here, not a crash when the array is written to.
            os.posix_fallocate(stream.fileno(), 0, 4 * int(np.prod(shape)))
        return np.memmap(stream, np.float32, "w+", shape=shape)


class _Store:
    """Feature rows on disk, in shards named by the SHA-256 of their own bytes.

    A shard that does not match its name was damaged or half-written: it is removed, and its rows
    are computed again.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...]):
        self._folder = folder
        self._dtype = np.dtype([("sha256", "V32"), ("values", np.float32, shape)])
        self._places: dict[Digest, tuple[Path, int]] = {}
        self._shard = lru_cache(maxsize=32)(_mapped)  # each holds a file open
        for path in sorted(folder.glob("[0-9a-f]*.npy")):
            self._open(path)

    def get(self, digest: Digest) -> NDArray[np.float32] | None:
        """The rows of a picture, or None."""
        place = self._places.get(digest)
        return None if place is None else self._shard(place[0])["values"][place[1]]

    def add(self, rows: Iterable[tuple[Digest, NDArray[np.float32]]]) -> None:
        """Keep the rows of some pictures as one shard."""
        shard = np.array([(np.void(digest), values) for digest, values in rows], self._dtype)
        if not len(shard):
            return
        content = io.BytesIO()
        np.save(content, shard, allow_pickle=False)
        name = hashlib.sha256(content.getbuffer()).hexdigest()
        try:
            files.write(self._folder / f"{name}.npy", content.getvalue())
        except OSError as error:  # the features are there all the same
            warnings.warn(
                f"Features are not kept for next time in {self._folder}: {error.strerror}.",
                stacklevel=2,
            )

    def _open(self, path: Path) -> None:
        try:
            if files.sha256(path) != path.stem:
                path.unlink()
                return
            digests = _mapped(path)["sha256"].tobytes()
        except (OSError, ValueError):  # not ours to read, or removed meanwhile
            return
        for i in range(len(digests) // 32):
            self._places[digests[32 * i : 32 * (i + 1)]] = (path, i)


def _mapped(path: Path) -> NDArray[np.void]:
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
