import pytest

from efftune.data import formats
from efftune.errors import BadImage

from . import odd_contents


@pytest.mark.parametrize("name", odd_contents.UNREAD)
def test_pictures_that_are_not_read_are_named(name):
    with pytest.raises(BadImage, match=r"^unsupported format: .+; .+"):
        formats.detect(odd_contents.UNREAD[name][: formats.HEAD])


@pytest.mark.parametrize("name", odd_contents.NO_PICTURES)
def test_other_files_are_no_pictures(name):
    with pytest.raises(BadImage, match=r"^(not an image|empty file)"):
        formats.detect(odd_contents.NO_PICTURES[name][: formats.HEAD])


@pytest.mark.parametrize("name", odd_contents.VIDEOS_AND_RAW)
def test_videos_and_camera_raw_files_are_told_apart(name):
    content, reasons = odd_contents.VIDEOS_AND_RAW[name]
    if "truncated" in reasons:  # a TIFF file by its first bytes
        assert formats.detect(content) == "TIFF"
        return
    with pytest.raises(BadImage) as caught:
        formats.detect(content)
    assert caught.value.reason.startswith(reasons.split("(")[0].split("; ")[0])
