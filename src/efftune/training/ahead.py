"""Networks that the nodes of a cluster train at the same time, before this process comes to them.

What a node has trained becomes the checkpoint of that work, so that it is found done, here and by a
run that goes on after a stop. A node gets the activations from the cache, if it sees the same disk,
or they are sent.
"""

import io
import math
import pickle
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
from numpy.typing import NDArray

from efftune.errors import EfftuneWarning
from efftune.features.cache import CachedRows, Digest, FeatureCache, RowsInMemory
from efftune.model.backbone import Backbone
from efftune.model.engines import devices
from efftune.model.weights.download import WeightsFile
from efftune.recipe.recipe import Recipe, Stage
from efftune.system import cluster, machine
from efftune.system.progress import Timer
from efftune.system.worker import Shared
from efftune.system.workers import Lost, Workers
from efftune.training import fine_tuning, members, stages
from efftune.training.batches import CachedViews, LabelledInputs
from efftune.training.planning import Plan
from efftune.training.regression_head import Head
from efftune.training.stage_result import NetworkState, TrainingDiverged
from efftune.training.training_data import TrainingData

_NOTED_SECONDS = 30.0  # between two looks, so that a run that is killed knows its time
_OPEN = 64  # caches in a worker
_MEMORY_SHARE = 1 / 4  # of the free memory, for activations that are sent
_SCALING = 0.75  # so many processors, to this power, are so many times faster in training

State = tuple[dict[str, Any], dict[str, list[NDArray[Any]]]]  # of a checkpoint
Places = list[tuple[Path, str, tuple[int, ...]]]  # of caches
Rows = list[tuple[list[Digest], NDArray[Any]]]  # of each cache


@dataclass(frozen=True)
class Work:
    """A network to be trained.

    Attributes:
        name: of its checkpoints.
        start: see `stages.fit`, as for what follows.
        stage: what to train.
        train: on cached activations.
        val: the same for the validation split, if there is one.
        recipe: the settings.
    """

    name: str
    start: NetworkState
    stage: Stage
    train: LabelledInputs
    val: LabelledInputs | None
    recipe: Recipe

    @property
    def rows(self) -> list[CachedRows]:
        """The activations of all views."""
        inputs = [part.inputs for part in (self.train, self.val) if part is not None]
        return [rows for each in inputs if isinstance(each, CachedViews) for rows in each.cached]


def networks(
    backbone: Backbone, head: Head, data: TrainingData, plan: Plan, timer: Timer
) -> list[Work]:
    """What `fine_tuning.run_stages` trains first, if it does so on cached activations; see there.

    It must be called within the same parts of the run.
    """
    recipe = plan.recipe
    first = next((stage for stage in recipe.stages if stage.name != "head"), None)
    if first is None or first.name != "upper" or recipe.head.epochs:
        return []
    start, found = fine_tuning.initial(backbone, head, recipe), []
    for part, own in members.each(recipe):
        with timer.part(part):
            inputs = fine_tuning.cached_views(first, backbone, data, own)
            found.append(Work(timer.place_of(first.name), start, first, *inputs, own))
    return found


def group_size(count: int, backbone: Backbone, timer: Timer) -> int:
    """How many networks of so many the cluster trains at the same time; 1 if it is not to help."""
    journal = timer.journal
    if journal.folder is None or journal.leaves_out_the_rest or timer.budget.is_limited:
        return 1
    if backbone.device != "cpu" or devices.keras_backend() == "jax":
        return 1
    workers = cluster.trainers()
    if workers is None or not workers.nodes:
        return 1
    size = min(count, len(workers.nodes))
    there, here = min(workers.nodes.values()), machine.usable_processors()
    return size if size * there**_SCALING > here**_SCALING else 1


def is_trained(work: Work, timer: Timer) -> bool:
    """Whether a network has been trained."""
    state, _ = timer.journal.checkpoints(work.name).latest() or ({}, {})
    return bool(state.keys() & {"result", "diverged"})


def train(works: Sequence[Work], timer: Timer) -> None:
    """Let the nodes of the cluster train networks; see `group_size`.

    Those that cannot be trained there are left to this process, with a warning.

    Args:
        works: networks that all start from the same pretrained one.
        timer: measures the phase; its journal keeps what is trained.

    Raises:
        DiskFull: there is no room for a checkpoint.
    """
    works = [each for each in works if timer.journal.checkpoints(each.name).latest() is None]
    workers = cluster.trainers() if len(works) > 1 else None
    if workers is None:
        return
    sending, saving = _Sending(workers, works), threading.Lock()

    def trained(work: Work) -> None:
        checkpoints = timer.journal.checkpoints(work.name)
        checkpoints.require_room(len(works) * sending.bytes)
        try:
            state, arrays = sending.call(work)
        except TrainingDiverged as error:
            state, arrays = {"diverged": str(error)}, {}
        except Exception as error:  # noqa: BLE001  (whatever it is, this process may do better)
            if not workers.has_ended:  # else the run is being stopped
                warnings.warn(f"Trained here, not by the cluster: {error}", EfftuneWarning, 2)
            return
        with saving:
            checkpoints.save(state, arrays, last=True)

    with timer.part(f"{len(works)} networks at once"), timer.phase(works[0].stage.name):
        _each(trained, works, workers, lambda done: timer.count(done, len(works)))


def _each(
    function: Callable[[Work], None],
    works: Sequence[Work],
    workers: Workers,
    on_done: Callable[[int], None],
) -> None:
    """Call a function for all at once, which calls workers; they are let go should one fail."""
    pool = ThreadPoolExecutor(len(works), thread_name_prefix="ahead")
    try:
        waiting = {pool.submit(function, work) for work in works}
        while waiting:
            done, waiting = wait(waiting, _NOTED_SECONDS, FIRST_COMPLETED)
            for future in done:
                future.result()
            on_done(len(works) - len(waiting))
    except BaseException:  # calls may take hours
        workers.end()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, eq=False)
class _Network:
    """The pretrained network, for processes that may not have its file."""

    name: str
    image_size: int
    weights_file: WeightsFile
    drop_connect_rate: float
    weights: list[NDArray[np.float32]]

    @classmethod
    def of(cls, backbone: Backbone) -> "_Network":
        """The network, made once."""
        if backbone not in _networks:
            _networks[backbone] = cls._of(backbone)
        return _networks[backbone]

    @classmethod
    def _of(cls, backbone: Backbone) -> "_Network":
        return cls(
            backbone.entry.name,
            backbone.image_size,
            replace(backbone.weights_file, path=None, published=None),
            backbone.drop_connect_rate,
            backbone.keras_model.get_weights(),
        )

    @cached_property
    def built(self) -> Backbone:
        return Backbone(
            self.name,
            self.image_size,
            weights=self.weights_file,
            drop_connect_rate=self.drop_connect_rate,
        )

    @property
    def backbone(self) -> Backbone:
        """The network, which was perhaps trained before, as it was sent."""
        self.built.restore(self.weights)
        return self.built


_networks: WeakKeyDictionary[Backbone, _Network] = WeakKeyDictionary()
_without_disk: WeakSet[Workers] = WeakSet()  # which do not see the cache


class _Missing(Exception):
    """A node has not all rows in its cache."""


class _Sending:
    """Sends networks to workers that train them, with what they need.

    Attributes:
        bytes: of the weights of a network.
    """

    def __init__(self, workers: Workers, works: Sequence[Work]):
        """All that will be sent."""
        self._workers = workers
        network = _Network.of(works[0].start.backbone)
        self.bytes = sum(each.nbytes for each in network.weights)
        self._network = workers.share_once(network)
        self._digests: dict[FeatureCache, set[Digest]] = {}
        for rows in (rows for work in works for rows in work.rows):
            if isinstance(rows.cache, FeatureCache):
                self._digests.setdefault(rows.cache, set()).update(rows.digests)
        self._shared: Shared[Rows] | None = None
        self._sharing = threading.Lock()

    def call(self, work: Work) -> State:
        """Let a worker train a network.

        Raises:
            Lost: workers are lost, again and again; or activations would take too much memory.
            TrainingDiverged: the loss diverges even at a lower learning rate.
        """
        stream = io.BytesIO()
        _Pickler(stream, list(self._digests)).dump(work)
        content = stream.getvalue()
        if self._workers not in _without_disk:
            places = [cache.place for cache in self._digests]
            try:
                return self._workers.call(_trained, self._network, places, content)
            except _Missing:
                _without_disk.add(self._workers)
        self._share()
        return self._workers.call(_trained, self._network, self._shared, content)

    def _share(self) -> None:
        """Send the rows, once."""
        with self._sharing:
            if self._shared is None:
                parts = [(cache, sorted(digests)) for cache, digests in self._digests.items()]
                needed = sum(
                    len(digests) * math.prod(cache.shape) * cache.dtype.itemsize
                    for cache, digests in parts
                )
                if needed > _MEMORY_SHARE * machine.free_memory():
                    raise Lost(f"{needed / 2**30:.1f} GiB of activations are too many to be sent")
                self._shared = self._workers.share(
                    [
                        (digests, np.stack([cache.row(x) for x in digests]))
                        for cache, digests in parts
                    ]
                )


class _Pickler(pickle.Pickler):
    """Writes numbers for caches, and nothing of backbones."""

    def __init__(self, stream: io.BytesIO, caches: list[FeatureCache]):
        super().__init__(stream, protocol=pickle.HIGHEST_PROTOCOL)
        self._caches = caches

    def persistent_id(self, value: Any) -> int | None:
        """See `pickle`."""
        if isinstance(value, FeatureCache):
            return self._caches.index(value)
        return -1 if isinstance(value, Backbone) else None


class _Unpickler(pickle.Unpickler):
    """Reads what `_Pickler` has written, with caches and a backbone of this process."""

    def __init__(
        self, content: bytes, caches: Sequence[FeatureCache | RowsInMemory], backbone: Backbone
    ):
        super().__init__(io.BytesIO(content))
        self._found = (*caches, backbone)

    def persistent_load(self, number: int) -> Any:
        """See `pickle`."""
        return self._found[number]


def _trained(network: Shared[_Network], rows: Places | Shared[Rows], content: bytes) -> State:
    """In a worker: the last checkpoint of a network that it trains.

    Raises:
        _Missing: its cache has not all rows.
    """
    backbone = network.value.backbone
    if isinstance(rows, Shared):
        work = _loaded(content, [RowsInMemory(*part) for part in rows.value], backbone)
    else:
        try:
            work = _loaded(content, [_opened(*place) for place in rows], backbone)
            if work is None:  # other rows may have been added
                _opened.cache_clear()
                work = _loaded(content, [_opened(*place) for place in rows], backbone)
        except OSError:  # no permission
            work = None
    if work is None:
        raise _Missing
    tuned, result = stages.fit(work.start, work.stage, work.train, work.val, work.recipe)
    return stages.last_checkpoint(tuned, result)


_opened = lru_cache(maxsize=_OPEN)(FeatureCache)


def _loaded(
    content: bytes, caches: Sequence[FeatureCache | RowsInMemory], backbone: Backbone
) -> Work | None:
    """What `_Pickler` has written; None if the caches have not all rows."""
    work: Work = _Unpickler(content, caches, backbone).load()
    known = all(digest in each.cache for each in work.rows for digest in each.digests)
    return work if known else None
