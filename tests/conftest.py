"""Made-up pictures, a run on them, and the real photos where they are at hand."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

# Workers side by side have a processor each: threads of one would only wait for the other's.
# The libraries read this when they are loaded.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP", "OPENBLAS", "TF_NUM_INTRAOP", "TF_NUM_INTEROP"):
        number = "THREADS" if name.startswith("TF") else "NUM_THREADS"
        os.environ.setdefault(f"{name}_{number}", "1")

import hypothesis
import numpy as np
import psutil
import pytest
from filelock import FileLock
from PIL import Image

# A busy machine takes longer for an example now and then, which is no fault.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 50, 40)}
# These squares are easy: only a head under a strong penalty leaves something to be learnt.
TUNED = {
    **{"image_size": 32, "unfreeze": "block7", "flip": "yes", "head_strengths": (1e-6,)},
    **{"epochs": 8, "views": 2, "batch_size": 6, "learning_rate": 3e-3},
    "test": 0.15,
}
ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test first: else one worker would run it alone in the end."""
    items.sort(key=lambda item: item.name != "test_programs_of_jax")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the tests' own, so that no test finds or leaves anything in another."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("EFFTUNE_CACHE")
    os.environ["EFFTUNE_CACHE"] = str(folder)
    yield folder
    del os.environ["EFFTUNE_CACHE"]
    if before is not None:
        os.environ["EFFTUNE_CACHE"] = before


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for one test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("EFFTUNE_CACHE", str(folder))
    return folder


def square(
    colour: tuple[int, int, int], seed: int, shape: tuple[int, int] = (40, 48)
) -> Image.Image:
    """A noisy picture of one colour; `shape` is (height, width)."""
    random = np.random.default_rng(seed)
    pixels = random.normal(colour, 25, (*shape, 3)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


def fill(folder: Path, *, count: int = 10, offset: int = 0) -> Path:
    """Class folders of coloured squares: PNG, and every third a rotated JPEG."""
    for number, (name, colour) in enumerate(COLOURS.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            picture = square(colour, seed=1000 * number + i + offset)
            if i % 3 == 0:
                exif = Image.Exif()
                exif[0x0112] = 6
                picture.save(folder / name / f"{i:02}.jpg", exif=exif, quality=95)
            else:
                picture.save(folder / name / f"{i:02}.png")
    return folder


@pytest.fixture(scope="session")
def shared_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of one call of pytest share."""
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    place.mkdir(exist_ok=True)
    return place


@contextmanager
def made_once(folder: Path) -> Iterator[bool]:
    """Whether the caller is to make a folder: the first worker does, the others wait for it."""
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        yield not folder.exists()


@pytest.fixture(scope="session")
def source(shared_place: Path) -> Path:
    """Thirty pictures of three classes."""
    folder = shared_place / "squares"
    with made_once(folder) as missing:
        if missing:
            fill(folder)
    return folder


@pytest.fixture
def broken_source(tmp_path: Path) -> Path:
    """The same, with everything in it that people's folders hold."""
    folder = fill(tmp_path / "broken")
    whole = (folder / "red" / "00.jpg").read_bytes()
    (folder / "red" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "red" / "empty.png").touch()
    (folder / "red" / "notes.txt").write_text("not a picture")
    (folder / "blue" / ".hidden.png").write_bytes(whole)
    (folder / "blue" / "Thumbs.db").write_bytes(b"x")
    (folder / "blue" / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "._00.jpg").write_bytes(b"x")
    (folder / "nothing in here").mkdir()
    (folder / "README.md").write_text("about these pictures")
    return folder


def copy_if_missing(source: str, target: str) -> None:
    """What is there may be mapped into memory."""
    if not Path(target).exists():
        shutil.copy2(source, target)


def trained_once(source: Path, folder: Path, cache: Path, **choices: object):
    """A run that only one worker trains; what it keeps in its cache is put into everybody's."""
    import efftune

    stored = folder.with_name(f"{folder.name}-cache")
    with made_once(folder) as missing, pytest.MonkeyPatch.context() as patch:
        if missing:
            patch.setenv("EFFTUNE_CACHE", str(stored))
            efftune.train(source, run=folder, **choices)
    shutil.copytree(stored, cache, copy_function=copy_if_missing, dirs_exist_ok=True)
    return efftune.Run.load(folder)


@pytest.fixture(scope="session")
def finished_run(source: Path, cache: Path, shared_place: Path):
    """A run on the coloured squares at 32 pixels."""
    return trained_once(
        source, shared_place / "run", cache, recipe="quick", image_size=32, test=0.15
    )


@pytest.fixture(scope="session")
def tuned_run(source: Path, cache: Path, shared_place: Path):
    """The same, fine-tuned from block 7."""
    return trained_once(source, shared_place / "tuned", cache, **TUNED)


MUCH = 2**28  # bytes
held = []  # bytes that this process held whenever it had given memory back


@pytest.fixture(autouse=True)
def networks_go() -> Iterator[None]:
    """Give back the memory of a test's networks, whose parts refer to each other.

    What was trained TensorFlow would keep for good: a graph with a gradient of its own registers
    that under a new name.
    """
    process = psutil.Process()
    if sys.modules.get("tensorflow") and not held:
        gc.collect()
        gc.freeze()  # the libraries: from now on they need not be searched
        held.append(process.memory_info().rss)
    yield
    if not sys.modules.get("tensorflow"):
        return
    from tensorflow.python.framework import ops

    registry = ops.gradient_registry._registry
    names = [name for name in registry if name.startswith("CustomGradient-")]
    for name in names:
        del registry[name]
    if names or (held and process.memory_info().rss > held[-1] + MUCH):
        gc.collect()
        held.append(process.memory_info().rss)


@pytest.fixture(scope="session")
def clothing() -> Path:
    """The clothing photos: $EFFTUNE_CLOTHING, or beside the project."""
    folder = Path(os.environ.get("EFFTUNE_CLOTHING", ROOT.parent / "shared/data/clothing"))
    if not (folder / "train").is_dir():
        pytest.skip(f"the clothing photos are not in {folder}; set EFFTUNE_CLOTHING")
    return folder


@pytest.fixture
def efftune_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in an empty folder, in the tests' own process to save its start.

    Keras is imported already; that commands avoid it is tested in processes of their own.
    """
    import keras

    from efftune.cli.main import main

    def run(*arguments: object, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        words = ["efftune", *map(str, arguments)]
        sigterm = signal.getsignal(signal.SIGTERM)
        capfd.readouterr()
        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.resetwarnings()
            patch.chdir(cwd)
            patch.setenv("KERAS_BACKEND", keras.backend.backend())
            patch.setattr(sys, "argv", words)
            patch.setattr(sys, "stderr", sys.stderr)  # `main` puts a copy in its place
            patch.setattr(warnings, "formatwarning", warnings.formatwarning)
            try:
                main()
                code: object = 0
            except SystemExit as stop:
                code = stop.code or 0
            finally:
                signal.signal(signal.SIGTERM, sigterm)
        assert isinstance(code, int)
        return subprocess.CompletedProcess(words, code, *capfd.readouterr())

    return run


@pytest.fixture
def python_with(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, list[str]], Path]:
    """Makes an environment with some packages alone, once: its Python."""

    def make(name: str, packages: list[str]) -> Path:
        base = os.environ.get("EFFTUNE_APPLICATIONS")
        folder = Path(base) if base else tmp_path_factory.getbasetemp().parent / "applications"
        python = folder / name / "bin" / "python"
        if not (folder / name / "done").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder / name], check=True)
            quiet = ("--quiet", "--disable-pip-version-check")
            subprocess.run([python, "-m", "pip", "install", *quiet, *packages], check=True)
            (folder / name / "done").touch()
        return python

    return make


@pytest.fixture
def efftune_process(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a process of its own, in an empty folder."""

    def run(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "efftune", *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            input=stdin,
        )

    return run


class Nodes:
    """A real Ray cluster on this machine, of a head without processors and two other nodes."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        self.address = ""
        self._add(0)
        self.address = self._cluster.address
        self.nodes = [self._add(1), self._add(1)]

    def _add(self, processors):
        return self._cluster.add_node(
            num_cpus=processors, include_dashboard=False, object_store_memory=100 * 2**20
        )

    def workers(self):
        raylets = [
            psutil.Process(each.all_processes["raylet"][0].process.pid) for each in self.nodes
        ]
        found = [child for raylet in raylets for child in raylet.children(recursive=True)]
        return [each for each in found if "Worker" in each.cmdline()[0]]

    def wait(self, count=2):
        """The workers of the cluster that was joined, once so many have started."""
        from efftune.system import cluster

        while cluster.is_starting() or cluster.current().count < count:
            time.sleep(0.05)
        return cluster.current()

    def lose_worker(self):
        victim = self.workers()[0]
        victim.kill()
        victim.wait(30)

    def lose_node(self):
        self._cluster.remove_node(self.nodes.pop(), allow_graceful=False)

    def restore(self):
        while len(self.nodes) < 2:
            self.nodes.append(self._add(1))

    def end(self):
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def nodes() -> "Iterator[Nodes]":
    """A Ray cluster on this machine."""
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    from efftune.system import cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.LOOPBACK.items():
            patch.setenv(name, value)
        found = Nodes()
        yield found
        found.end()
