"""Files of weights: given, installed or downloaded, which processes share."""

from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from efftune.errors import UsageError
from efftune.model import catalogue
from efftune.model.weights import recognition
from efftune.model.weights_table import OWN, Graph, Weights
from efftune.system import downloads, files
from efftune.system.progress import Progress, silent


@dataclass(frozen=True)
class WeightsFile:
    """A weights file on this machine.

    Attributes:
        path: the file; None for random weights.
        checksum: algorithm and digits, such as `sha256:…`; `none` for random weights.
        graph: the network that they were trained in.
        published: their row in the table, if they are published.
    """

    path: Path | None
    checksum: str
    graph: Graph = OWN
    published: Weights | None = None

    @property
    def identity(self) -> str:
        """What features depend on: the checksum, and the graph if it isn't the family's own."""
        return self.checksum if self.graph == OWN else f"{self.checksum} {self.graph}"


def locate(
    entry: catalogue.Model, weights: str | Path, on_progress: Progress = silent
) -> WeightsFile:
    """Locate a model's weights; published ones are downloaded if needed.

    Args:
        entry: the model.
        weights: the name of published weights, such as `imagenet`; `none` or a file.
        on_progress: called with `download`, the bytes received and the total.

    Raises:
        UsageError: there is no such file, no such weights are published for the model, or their
            package is not installed.
        DataError: they cannot be downloaded; the message says why and what to do.
    """
    if weights == "none":
        return WeightsFile(None, "none")
    if weights in catalogue.WEIGHTS_NAMES:
        chosen = entry.with_weights(str(weights))
        path = ensure_downloaded(chosen, on_progress)
        return WeightsFile(path, chosen.weights.checksum, chosen.weights.graph, chosen.weights)
    path = files.user_path(weights)
    if not path.is_file():
        names = ", ".join(each.name for each in entry.published)
        raise UsageError(f"There is no weights file {path}. Pass a file, {names} or none.")
    sha256 = files.sha256(path)
    return WeightsFile(path, f"sha256:{sha256}", recognition.recognise(entry, path, sha256))


def ensure_downloaded(entry: catalogue.Model, on_progress: Progress = silent) -> Path:
    """The file of a model's weights, downloaded if it is missing.

    Args:
        entry: the model.
        on_progress: called with `download`, the bytes received and the total.

    Raises:
        UsageError: its package is not installed; the message says how to install it.
        DataError: it cannot be downloaded; the message says why and what to do.
    """
    catalogue.require_package(entry)
    path = entry.weights.path
    if path is None:
        path = files.cache_folder() / "weights" / entry.weights.file
        path.parent.mkdir(parents=True, exist_ok=True)
        on_progress("download", 0, 0)
        with FileLock(f"{path}.lock"):  # a second process waits for the first
            if entry.weights.path is None:
                fetch(entry, path, on_progress)
    return path


def fetch(entry: catalogue.Model, path: Path, on_progress: Progress = silent) -> None:
    """Download a model's weights to `path`, which is created once they are complete and verified.

    After an interruption, the partial file stays in the same folder and the next call resumes it.

    Raises:
        DataError: see `ensure_downloaded`.
    """
    weights = entry.weights
    file = downloads.Published(
        what=f"The weights of {entry.name}",
        url=weights.url,
        checksum=weights.checksum,
        is_right=weights.is_published,
        instead=_alternatives(),
    )
    downloads.fetch(file, path, on_progress)


def _alternatives() -> str:
    return (
        "Pass a file with --weights, or choose a model whose weights are installed: "
        f"{catalogue.installed_models()}."
    )
