"""Fast inference on the CPU with OpenVINO, while threads decode the next pictures.

Does not need a training framework, but to convert a network for the first time.
"""

import errno
import os
import platform
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from importlib import metadata
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino.preprocess import PrePostProcessor

from efftune.data.images import Pixels
from efftune.errors import EfftuneWarning, UsageError
from efftune.model.engines import engine, openvino_check
from efftune.model.engines.engine import OPENVINO_FILE, Item, Precision
from efftune.model.engines.openvino_heads import with_head
from efftune.model.engines.openvino_requests import Requests
from efftune.system import files
from efftune.system.machine import usable_processors, uses_all_processors

if TYPE_CHECKING:
    import keras

NAME = "openvino"
_TYPES = {"float32": ov.Type.f32, "float16": ov.Type.f16, "bfloat16": ov.Type.bf16}
_BATCH_SIZES: dict[Precision, int] = {"bf16": 4, "f32": 1}  # fastest as measured
# OpenVINO looks NumPy up when it first sees an array, behind a lock of its own. Two threads that
# are first at the same time wait for each other for ever, so this is done here, on import.
ov.Tensor(np.zeros(1, np.uint8)).data  # noqa: B018

# Never released: to release a network waits for its threads, which a forked process has not.
_OF_OTHER_PROCESSES: list[tuple[ov.CompiledModel | None, SimpleQueue[ov.InferRequest]]] = []


def version() -> str:
    """The version of OpenVINO."""
    return metadata.version("openvino")


def fastest_precision() -> Precision:
    """The fastest inference precision of this machine's CPU: bf16 where it is supported."""
    return "bf16" if "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"


def network(
    build: "Callable[[], keras.Model]",
    *,
    size: int,
    precision: Precision = "f32",
    dtypes: Sequence[str] = ("float32",),
    mirrored: bool = False,
    cached: Path | None = None,
) -> "Network":
    """See `Engine`; bfloat16 is returned as uint16."""

    def load() -> ov.Model:
        return converted(build, mirrored=mirrored, cached=cached)

    return Network(load, size=size, precision=precision, dtypes=dtypes)


def classifier(
    folder: Path, *, size: int, has_features: bool, precision: Precision = "f32"
) -> "Network":
    """See `Engine`."""
    dtypes = ["float32"] * (2 if has_features else 1)
    return _SavedNetwork(
        lambda: read_classifier(folder), size=size, precision=precision, dtypes=dtypes
    )


def explainer(folder: Path, *, size: int) -> tuple["Network", NDArray[np.float32]]:
    """See `Engine`."""
    from efftune.model.engines.openvino_heads import with_activations

    with openvino_check.using(folder / OPENVINO_FILE):
        model, kernel = with_activations(read_classifier(folder))
    return _SavedNetwork(lambda: model, size=size, dtypes=["float32"] * len(model.outputs)), kernel


def converted(
    build: "Callable[[], keras.Model]", *, mirrored: bool = False, cached: Path | None = None
) -> ov.Model:
    """Convert a Keras model, or read the conversion made before.

    Args:
        build: returns the model; called only if it has not been converted before.
        mirrored: see `conversion.convert`.
        cached: the folder of the conversion.
    """
    if cached is not None and files.is_intact(cached):
        return read(cached / "model.xml")
    from efftune.model.engines.conversion import convert

    model = convert(build(), mirrored=mirrored)
    if cached is not None and not files.is_intact(cached):  # by another process
        try:
            shutil.rmtree(cached, ignore_errors=True)
            with files.folder_written_whole(cached) as partial:
                write(model, partial / "model.xml")
                files.seal(partial)
        except OSError as error:
            warnings.warn(
                f"The converted network could not be cached in {cached.parent}: "
                f"{error.strerror}. The next run converts it again.",
                EfftuneWarning,
                stacklevel=2,
            )
    return model


def read_classifier(folder: Path) -> ov.Model:
    """Read a saved classifier; where it was saved without OpenVINO, its conversion is added.

    Raises:
        DataError: its file is damaged, or holds more than a network.
    """
    path = folder / OPENVINO_FILE
    if path.exists():
        with openvino_check.using(path):
            openvino_check.metadata(path)
            model = read(path)
            openvino_check.require_small(model)
            return model
    from efftune.model.engines.conversion import convert
    from efftune.model.engines.saved import SavedClassifier

    saved = SavedClassifier.load(folder)
    model = with_head(convert(saved.backbone, mirrored=saved.mirrored), saved.kernel, saved.bias)
    try:
        write_classifier(model, folder)
    except OSError as error:
        warnings.warn(
            f"The network could not be stored in {path.parent}: {error.strerror}. It is converted "
            "again when it is next used.",
            EfftuneWarning,
            stacklevel=2,
        )
    return model


def write_classifier(model: ov.Model, folder: Path) -> None:
    """Write a classifier to its file in a folder.

    Raises:
        OSError: the files cannot be written.
    """
    with files.folder_written_whole((folder / OPENVINO_FILE).parent) as partial:
        write(model, partial / Path(OPENVINO_FILE).name)


def read(path: Path) -> ov.Model:
    """Read an OpenVINO model into memory, so that its files may be changed or deleted later."""
    core = ov.Core()
    core.set_property({"ENABLE_MMAP": False})
    return core.read_model(path)


def write(model: ov.Model, path: Path, *, half: bool = False) -> None:
    """Write a model to `path` (.xml) and its weights, in float32 or `half` of it, beside it (.bin).

    Raises:
        OSError: the files cannot be written, for example because the disk is full.
    """
    try:
        ov.save_model(model, path, compress_to_fp16=half)
    except RuntimeError:  # OpenVINO's error has no reason in it
        number = errno.ENOSPC if shutil.disk_usage(path.parent).free < 2**20 else errno.EIO
        raise OSError(number, "cannot be written; the disk may be full", str(path.parent)) from None


class Network:
    """An OpenVINO model compiled for this machine's CPU, with uint8 pixels as input.

    The model is loaded and compiled when the first picture has been decoded, so a run whose
    features are all cached skips that.

    Attributes:
        size: side of the input square, in pixels.
        precision: inference precision; weights are float32 in either case.
        batch_size: number of views per request.
        idle: requests that are not under way; later runs use them again.
    """

    can_be_sent = True

    def __init__(
        self,
        load_model: Callable[[], ov.Model],
        *,
        size: int,
        precision: Precision = "f32",
        dtypes: Sequence[str] = ("float32",),
    ):
        """Describe a network.

        Args:
            load_model: returns the model; its input is float32 pixels (batch, size, size, 3).
            size: side of the input square, in pixels.
            precision: inference precision.
            dtypes: of the outputs; bfloat16 is returned as uint16.
        """
        self.size = size
        self.precision = precision
        self.batch_size = _BATCH_SIZES[precision]
        self._load_model = load_model
        self._dtypes = dtypes
        self._begin()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the model itself: what it was loaded from is not on other machines."""
        choices = {"size": self.size, "precision": self.precision, "dtypes": tuple(self._dtypes)}
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "model.xml"
            write(self._load_model(), path)
            content = path.read_bytes(), path.with_suffix(".bin").read_bytes()
        return _received, (*content, choices, self.batch_size)

    def _begin(self) -> None:
        self.idle: SimpleQueue[ov.InferRequest] = SimpleQueue()
        self._compiled: ov.CompiledModel | None = None
        self._compiling = Lock()
        self._process = os.getpid()

    def _begin_again_after_fork(self) -> None:
        """Forget what was compiled in another process: its threads do not exist in this one."""
        if self._process != os.getpid():
            _OF_OTHER_PROCESSES.append((self._compiled, self.idle))
            self._begin()

    def idle_request(self) -> ov.InferRequest:
        """A request that is not under way: one used before, or a new one."""
        self._begin_again_after_fork()
        try:
            return self.idle.get_nowait()
        except Empty:
            return self.compiled.create_infer_request()

    @property
    def compiled(self) -> ov.CompiledModel:
        """The compiled model; it is compiled when it is first needed."""
        self._begin_again_after_fork()
        with self._compiling:
            if self._compiled is None:
                self._compiled = self._compile()
            return self._compiled

    def _compile(self) -> ov.CompiledModel:
        processor = PrePostProcessor(self._load_model().clone())
        processor.input().tensor().set_element_type(ov.Type.u8)
        for i, dtype in enumerate(self._dtypes):
            processor.output(i).tensor().set_element_type(_TYPES[dtype])
        model = processor.build()
        model.reshape([self.batch_size, self.size, self.size, 3])
        processors = usable_processors()
        properties = {
            **{"NUM_STREAMS": processors, "INFERENCE_NUM_THREADS": processors},
            "INFERENCE_PRECISION_HINT": self.precision,
            # Or all processes that use only some processors would use the same ones.
            "ENABLE_CPU_PINNING": uses_all_processors(),
        }
        return ov.Core().compile_model(model, "CPU", properties)

    def prepare(self) -> None:
        """See `engine.Network`: there is nothing that takes long."""

    def run(
        self,
        items: Iterable[Item],
        load: Callable[[Item], Pixels | None],
        deliver: Callable[[Item, int, list[Any]], None],
        *,
        views: int = 1,
    ) -> None:
        """See `engine.Network`."""
        requests = Requests(self.batch_size, self.idle_request, self.idle.put, deliver)
        try:
            with closing(engine.loaded(items, load, engine.window(views, self.size))) as pairs:
                for item, pixels in pairs:
                    requests.add(item, pixels)
            requests.finish()
        finally:
            requests.release()


def _received(
    description: bytes, weights: bytes, choices: dict[str, Any], batch_size: int
) -> Network:
    """A network from another machine.

    Raises:
        UsageError: this one cannot compute as precisely, or only that.
    """
    if choices["precision"] == "bf16" and fastest_precision() != "bf16":
        raise UsageError(
            f"The processor of {platform.node()} has no bfloat16: use --precision f32."
        )
    network = Network(lambda: ov.Core().read_model(description, weights), **choices)
    network.batch_size = batch_size
    return network


class _SavedNetwork(Network):
    """The network of a run, which may be damaged, or come from others.

    It takes one picture at a time in any precision: a server has no more of them at once, and those
    of a folder wait for decoding rather than for the network.
    """

    def __init__(self, load_model: Callable[[], ov.Model], **choices: Any):
        """See `Network`."""
        super().__init__(load_model, **choices)
        self.batch_size = 1

    def _compile(self) -> ov.CompiledModel:
        with openvino_check.using(Path(OPENVINO_FILE)):
            return super()._compile()
