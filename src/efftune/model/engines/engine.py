"""What runs frozen networks over pictures: the interface of engines, and what they share."""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from efftune.data.images import Pixels
from efftune.errors import UsageError
from efftune.system.machine import usable_processors

if TYPE_CHECKING:
    import keras

Precision = Literal["f32", "bf16"]
Item = TypeVar("Item")

KERAS_FILE = "model.keras"  # of a saved classifier, in its folder
OPENVINO_FILE = "openvino/model.xml"  # likewise
WINDOW_BYTES = 256 * 2**20  # maximum size of the decoded pictures that wait for the network


class Network(Protocol):
    """A frozen network, ready to run; it is compiled when the first picture has been decoded.

    Attributes:
        can_be_sent: whether it can be pickled, for other machines.
    """

    can_be_sent: bool

    def run(
        self,
        items: Iterable[Item],
        load: Callable[[Item], Pixels | None],
        deliver: Callable[[Item, int, list[Any]], None],
        *,
        views: int = 1,
    ) -> None:
        """Run the network on many items while threads load the next ones.

        Args:
            items: the items, such as paths; an iterator is advanced as they are needed.
            load: returns an item's pixels, uint8 (views, size, size, 3), or None to skip it.
                Called from several threads.
            deliver: receives an item, the index of the view, and the network's outputs for it:
                arrays without batch axis, valid only during the call. Called in the order of
                the items, from the caller's thread.
            views: maximum number of views per item, for the memory limit of decoded pictures.

        Raises:
            Exception: any exception of `load` or `deliver`; no further item is started.
        """

    def prepare(self) -> None:
        """Begin to make what `run` needs, in a thread, if that takes long."""


class Engine(Protocol):
    """What computes networks. Its modules are imported only where it is used.

    Attributes:
        NAME: part of the key of everything that is cached.
    """

    NAME: str

    def version(self) -> str:
        """The version of the package that computes."""

    def fastest_precision(self) -> Precision:
        """The fastest precision of the device."""

    def network(
        self,
        build: "Callable[[], keras.Model]",
        *,
        size: int,
        precision: Precision = "f32",
        dtypes: Sequence[str] = ("float32",),
        mirrored: bool = False,
        cached: Path | None = None,
    ) -> Network:
        """A network that outputs what a Keras model does.

        Args:
            build: returns the model, from float32 pixels (batch, size, size, 3); called only if it
                is needed.
            size: side of the input square, in pixels.
            precision: of the computation; weights are float32 in either case.
            dtypes: of the outputs.
            mirrored: output the mean over each picture and its mirror image.
            cached: folder where the engine may keep what it makes of the model; the name
                identifies the model.
        """

    def classifier(
        self, folder: Path, *, size: int, has_features: bool, precision: Precision = "f32"
    ) -> Network:
        """The classifier saved in a folder: probabilities, then features if wanted, as float32."""

    def explainer(self, folder: Path, *, size: int) -> tuple[Network, NDArray[np.float32]]:
        """A saved classifier with the activations whose means are its features.

        Returns:
            A network with outputs probabilities and, for each stage that the head sees, activations
            (channels, height, width), those of the last stage at the end; and the head's kernel
            (features, classes), minus its mean over the classes.
        """


def chosen_precision(engine: Engine, wanted: Literal["auto"] | Precision) -> Precision:
    """The precision to compute in: with `auto`, the fastest.

    Raises:
        UsageError: the device does not compute in it.
    """
    fastest = engine.fastest_precision()
    if wanted == "bf16" and fastest != "bf16":
        raise UsageError("This machine's processor has no bfloat16: use --precision auto.")
    return fastest if wanted == "auto" else wanted


def window(views: int, size: int) -> int:
    """How many items may wait for the network."""
    return max(2 * usable_processors(), WINDOW_BYTES // (views * size**2 * 3))


def loaded(
    items: Iterable[Item], load: Callable[[Item], Pixels | None], window: int
) -> Generator[tuple[Item, Pixels | None], None, None]:
    """Items in order with what is loaded of them, up to `window` at a time in threads."""
    iterator = iter(items)
    first = list(itertools.islice(iterator, 2))
    if len(first) == 1:  # threads would take longer to start than it takes to load
        yield first[0], load(first[0])
        return
    queued: deque[tuple[Item, Future[Pixels | None]]] = deque()
    pool = ThreadPoolExecutor(usable_processors(), thread_name_prefix="decode")
    try:
        for item in itertools.chain(first, iterator):
            queued.append((item, pool.submit(load, item)))
            if len(queued) >= window:
                done, future = queued.popleft()
                yield done, future.result()
        while queued:
            done, future = queued.popleft()
            yield done, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
