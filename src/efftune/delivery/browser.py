"""A folder that any web server can serve: a page that classifies pictures in the browser.

The model runs in ONNX Runtime Web, whose files come from its npm package and are not part of
efftune. Nothing is unpacked from that archive but two members whose checksums are known.
"""

import gzip
import hashlib
import json
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from filelock import FileLock

from efftune.data.bit_depth import Range
from efftune.errors import DataError, UsageError
from efftune.model.classifier import Classifier
from efftune.recipe.inputs import Fit
from efftune.system import downloads, files
from efftune.system.progress import Progress, silent

MODEL = "model.onnx"
SETTINGS = "settings.json"
RUNTIME_VERSION = "1.30.0"
ARCHIVE = f"onnxruntime-web-{RUNTIME_VERSION}.tgz"
_URL = f"https://registry.npmjs.org/onnxruntime-web/-/{ARCHIVE}"
_SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
_MEGABYTES = 33
_MOST_BYTES = 400_000_000  # unpacked: twice what the package has


@dataclass(frozen=True)
class _Member:
    """A file in the archive of the runtime.

    Attributes:
        file: what it is called beside the page. Some servers do not know that `.mjs` is a script.
        size: in bytes.
        sha256: its checksum.
    """

    file: str
    size: int
    sha256: str


_MEMBERS = {
    # The build for WebAssembly only, with its loader in the same script.
    "package/dist/ort.wasm.bundle.min.mjs": _Member(
        "onnxruntime-web.js",
        73_054,
        "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    ),
    "package/dist/ort-wasm-simd-threaded.wasm": _Member(
        "onnxruntime-web.wasm",
        14_239_897,
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    ),
}
_GET = f"Get it with `npm pack onnxruntime-web@{RUNTIME_VERSION}`, or from {_URL}"


@dataclass(frozen=True)
class Settings:
    """What the page has to know.

    Attributes:
        title: of the page.
        about: the model in a few words.
        class_names: in the order of the probabilities; they may hold anything.
        image_size: side of the model's input square, in pixels.
        fit: how pictures become squares.
        unsure_below: answers with a lower probability are unsure; None if there is no threshold.
        depth: the values of black and white in pictures with 16 bits a channel; None for those of
            the picture itself.
    """

    title: str
    about: str
    class_names: Sequence[str]
    image_size: int
    fit: Fit
    unsure_below: float | None = None
    depth: Range | None = None

    @classmethod
    def of(cls, classifier: Classifier, title: str, about: str) -> "Settings":
        """Those of a run's classifier.

        Raises:
            UsageError: it is a published one, whose pictures are resized in a way of its own.
        """
        fit, uncertainty = classifier.fit, classifier.uncertainty
        if not isinstance(fit, str):
            raise UsageError("The page can show the classifier of a run only, not a published one.")
        return cls(
            title=title,
            about=about,
            class_names=tuple(classifier.class_names),
            image_size=classifier.image_size,
            fit=fit,
            unsure_below=None if uncertainty is None else float(uncertainty.unsure_below),
            depth=classifier.depth.integers,
        )


def runtime_archive(
    given: Path | None, *, may_fetch: bool = False, on_progress: Progress = silent
) -> Path:
    """The archive of the runtime: the given one, one that was downloaded before, or a new download.

    Args:
        given: what `npm pack` wrote.
        may_fetch: whether it may be downloaded into the cache folder.
        on_progress: called with `download`, the bytes received and the total.

    Raises:
        UsageError: there is none, and it may not be downloaded; or the given file does not exist.
        DataError: the given file is damaged or of another version, or the download failed.
    """
    if given is not None:
        path = files.user_path(given)
        if not path.is_file():
            raise UsageError(f"There is no file {path}. {_GET}.")
        _runtime_files(path)
        return path
    path = files.cache_folder() / "runtimes" / ARCHIVE
    if _is_published(path):
        return path
    if not may_fetch:
        raise UsageError(
            f"The page needs ONNX Runtime Web {RUNTIME_VERSION}, which is not in efftune's cache. "
            f"Let efftune download it once ({_MEGABYTES} MB): --fetch. Or get it with `npm pack "
            f"onnxruntime-web@{RUNTIME_VERSION}` or `curl -O {_URL}`, and pass it: "
            f"--runtime {ARCHIVE}."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    on_progress("download", 0, 0)
    wanted = downloads.Published(
        what=f"ONNX Runtime Web {RUNTIME_VERSION}",
        url=_URL,
        checksum=f"sha256:{_SHA256}",
        is_right=_is_published,
        instead=f"Or run `npm pack onnxruntime-web@{RUNTIME_VERSION}` where that is possible, and "
        f"pass --runtime {ARCHIVE}.",
    )
    with FileLock(f"{path}.lock"):  # a second process waits for the first
        if not _is_published(path):
            downloads.fetch(wanted, path, on_progress)
    return path


def write(folder: Path, settings: Settings, runtime: Path) -> None:
    """Write the page with all that it needs, `index.html`, beside the model.

    Args:
        folder: where to; it holds the model, as `onnx_file.write` writes it. Files of the same
            names as the page's are replaced.
        settings: of the page.
        runtime: what `runtime_archive` returns.

    Raises:
        DataError: the archive is damaged or of another version.
        OSError: the folder cannot be written to.
    """
    contents = _runtime_files(runtime)
    contents |= {
        each.name: each.read_bytes()
        for each in (resources.files("efftune.delivery") / "browser_page").iterdir()
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    wasm = next(each.file for each in _MEMBERS.values() if each.file.endswith(".wasm"))
    stored = {
        "title": settings.title,
        "about": settings.about,
        "classes": list(settings.class_names),
        "image_size": settings.image_size,
        "fit": settings.fit,
        "unsure_below": settings.unsure_below,
        "depth": settings.depth,
        "files": {name: (folder / name).stat().st_size for name in (MODEL, wasm)},
    }
    (folder / SETTINGS).write_text(json.dumps(stored, indent=1) + "\n", encoding="ascii")


def _is_published(path: Path) -> bool:
    return path.is_file() and files.sha256(path) == _SHA256


def _runtime_files(archive: Path) -> dict[str, bytes]:
    """The contents of the members that are needed, by their names beside the page.

    Raises:
        DataError: one is missing or another one, or the archive is damaged.
    """
    found: dict[str, bytes] = {}
    try:
        with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as members:
            for member in members:
                if member.offset_data + member.size > _MOST_BYTES:
                    raise _other(archive, "it is too large")
                wanted = _MEMBERS.get(member.name)
                if wanted is not None:
                    found[wanted.file] = _content(archive, members, member)
                if len(found) == len(_MEMBERS):
                    return found
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "it is damaged, cut off or no .tgz file"
        raise _other(archive, reason) from None
    missing = next(name for name, each in _MEMBERS.items() if each.file not in found)
    raise _other(archive, f"{missing} is missing")


def _content(archive: Path, members: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    wanted = _MEMBERS[member.name]
    stream = members.extractfile(member) if member.isreg() and member.size == wanted.size else None
    content = b"" if stream is None else stream.read()
    if hashlib.sha256(content).hexdigest() != wanted.sha256:
        raise _other(archive, f"{member.name} is another file (expected sha256:{wanted.sha256})")
    return content


def _other(archive: Path, reason: str) -> DataError:
    return DataError(
        f"{archive} is not the package onnxruntime-web {RUNTIME_VERSION}: {reason}. {_GET}."
    )
