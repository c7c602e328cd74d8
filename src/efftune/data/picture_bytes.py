"""The bytes of pictures: files, or parts of tar files, which are read where they lie.

The path of such a part goes on where that of the file ends: `photos-000.tar/@1536+20480/cat.jpg`.
"""

import errno
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from efftune.data import formats
from efftune.errors import BadImage

# Reasons why a file is set aside; they appear in messages and tables.
NOT_REGULAR = "not a regular file"
FOLDER = "a folder, not a picture"
NO_PERMISSION = "no permission to read"
BROKEN_LINK = "broken link"
NO_SUCH_FILE = "no such file"
_PLACE = re.compile(r"@(\d{1,19})\+(\d{1,19})")


def path_in(shard: Path, offset: int, length: int, name: str) -> Path:
    """The path of a picture in a file.

    Args:
        shard: the file.
        offset: of the picture in it, in bytes.
        length: of the picture, in bytes.
        name: of the picture, without folders.
    """
    return shard / f"@{offset}+{length}" / name


def sniff(path: Path) -> str:
    """Detect the format from the first bytes of a picture, without decoding it.

    Returns:
        A key of `FORMATS`.

    Raises:
        BadImage: the picture cannot be read, is empty, or has none of these formats.
    """
    return formats.detect(read(path, formats.HEAD))


def read(path: Path, most: int = -1) -> bytes:
    """Read the bytes of a picture.

    Args:
        path: of a file, or see `path_in`.
        most: how many bytes, from the first one; -1 for all.

    Raises:
        BadImage: the picture cannot be read.
    """
    with _readable(path):
        try:
            if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
                raise BadImage(NOT_REGULAR)  # opening a pipe would block
            with path.open("rb") as stream:
                return stream.read(most)
        except (NotADirectoryError, FileNotFoundError):
            match, shard = _PLACE.fullmatch(path.parent.name), path.parent.parent
            if match is None or not shard.is_file():
                raise
            offset, length = map(int, match.groups())
            with shard.open("rb") as stream:
                stream.seek(offset)
                return stream.read(length if most < 0 else min(length, most))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Convert errors of the operating system to `BadImage` with a readable reason."""
    try:
        yield
    except FileNotFoundError:
        raise BadImage(BROKEN_LINK if path.is_symlink() else NO_SUCH_FILE) from None
    except PermissionError:
        raise BadImage(NO_PERMISSION) from None
    except IsADirectoryError:
        raise BadImage(FOLDER) from None
    except OSError as error:
        if error.errno == errno.ELOOP or path.is_symlink():
            raise BadImage(BROKEN_LINK) from None
        raise BadImage(f"cannot be read: {error.strerror}") from None
