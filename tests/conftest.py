"""Made-up pictures, a run on them, and the real photos where they are at hand."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 50, 40)}
# These squares are easy: only a head under a strong penalty leaves something to be learnt.
TUNED = {
    **{"image_size": 32, "unfreeze": "block7", "flip": "yes", "head_strengths": (1e-6,)},
    **{"epochs": 8, "views": 2, "batch_size": 6, "learning_rate": 3e-3},
}
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the tests' own, so that nothing is kept from before or left behind."""
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
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty pictures of three classes."""
    return fill(tmp_path_factory.mktemp("source") / "squares")


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


@pytest.fixture(scope="session")
def finished_run(source: Path, tmp_path_factory: pytest.TempPathFactory):
    """A run on the coloured squares at 32 pixels."""
    import efftune

    folder = tmp_path_factory.mktemp("runs") / "run"
    return efftune.train(source, run=folder, recipe="quick", image_size=32)


@pytest.fixture(scope="session")
def tuned_run(source: Path, tmp_path_factory: pytest.TempPathFactory):
    """The same, fine-tuned from block 7."""
    import efftune

    folder = tmp_path_factory.mktemp("runs") / "tuned"
    return efftune.train(source, run=folder, **TUNED)


@pytest.fixture(scope="session")
def clothing() -> Path:
    """The clothing photos: $EFFTUNE_CLOTHING, or beside the project."""
    folder = Path(os.environ.get("EFFTUNE_CLOTHING", ROOT.parent / "shared/data/clothing"))
    if not (folder / "train").is_dir():
        pytest.skip(f"the clothing photos are not in {folder}; set EFFTUNE_CLOTHING")
    return folder


@pytest.fixture
def efftune_command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a process of its own, in an empty folder."""

    def run(*arguments: object, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "efftune", *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)

    return run
