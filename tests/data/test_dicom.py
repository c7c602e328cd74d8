"""DICOM files: pydicom's own samples, and written ones of which the right pixels are known."""

import io
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from efftune.data import images
from efftune.data.bit_depth import BitDepth
from efftune.errors import BadImage

SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"


def dicom(values: np.ndarray, **elements: object) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    file.Rows, file.Columns = values.shape
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated = 8 * values.dtype.itemsize
    file.BitsStored, file.HighBit = 12, 11
    file.PixelRepresentation = int(values.dtype.kind == "i")
    file.PixelData = values.tobytes()
    for name, value in elements.items():
        setattr(file, name, value)
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, file, enforce_file_format=True)
    return stream.getvalue()


RAMP = np.linspace(0, 4000, 64).astype(np.uint16).reshape(8, 8)
WINDOW = {"WindowCenter": 0, "WindowWidth": 1000, "RescaleIntercept": -1000, "RescaleSlope": 1}


def windowed(low: float, high: float) -> np.ndarray:
    return ((RAMP.astype(float) - low) / (high - low) * 255).clip(0, 255)


def test_window_and_rescale_are_applied():
    pixels = images.decode(dicom(RAMP, **WINDOW), 8, "stretch")
    assert pixels[..., 1] == pytest.approx(windowed(500, 1500), abs=1.5)


def test_where_low_values_are_white_they_are_turned():
    content = dicom(RAMP, **WINDOW, PhotometricInterpretation="MONOCHROME1")
    pixels = images.decode(content, 8, "stretch")
    assert pixels[..., 1] == pytest.approx(255 - windowed(500, 1500), abs=1.5)


def test_sets_of_both_kinds_without_windows_have_one_range():
    turned = dicom(4095 - RAMP, PhotometricInterpretation="MONOCHROME1")
    one, other = images.decoded(dicom(RAMP), 8, "stretch"), images.decoded(turned, 8, "stretch")
    assert one.inner_range == other.inner_range
    assert np.array_equal(one.pixels, other.pixels)
    signed = (2047 - RAMP.astype(np.int16)).astype(np.int16)  # of 12 bits: -2048 to 2047
    decoded = images.decoded(dicom(signed, PhotometricInterpretation="MONOCHROME1"), 8, "stretch")
    assert decoded.inner_range == (-2048, 1952)


def test_table_of_grey_levels_is_applied():
    table = Dataset()
    table.LUTDescriptor = [4096, 0, 10]
    table.LUTData = (np.arange(4096, dtype=np.uint16)[::-1] // 4).tobytes()
    pixels = images.decode(dicom(RAMP, VOILUTSequence=[table]), 8, "stretch")
    assert pixels[..., 1] == pytest.approx(255 - RAMP / 16, abs=1.5)


def test_without_a_window_the_range_is_that_of_the_set():
    decoded = images.decoded(dicom(RAMP), 8, "stretch")
    assert (decoded.kind, decoded.inner_range) == ("integers", (0, 4000))
    pixels = images.decode(dicom(RAMP), 8, "stretch", BitDepth((0, 8000)))
    assert pixels[..., 1] == pytest.approx(windowed(0, 8000), abs=1)


@pytest.mark.parametrize(
    ("name", "size", "several"),
    [
        ("MR_small.dcm", (64, 64), False),  # with the header of a TIFF file in front
        ("MR_small_RLE.dcm", (64, 64), False),
        ("MR_small_bigendian.dcm", (64, 64), False),
        ("MR_small_jp2klossless.dcm", (64, 64), False),
        ("SC_rgb_rle_2frame.dcm", (100, 100), True),
        ("SC_rgb_dcmtk_+eb+cy+np.dcm", (100, 100), False),
        ("SC_ybr_full_422_uncompressed.dcm", (100, 100), False),
        ("SC_rgb_rle_16bit.dcm", (100, 100), False),
        ("examples_palette.dcm", (800, 350), False),
        ("examples_ybr_color.dcm", (320, 240), True),
    ],
)
def test_usual_files_are_read(name, size, several):
    decoded = images.decoded((SAMPLES / name).read_bytes(), 32, "stretch")
    assert (decoded.format, (decoded.width, decoded.height)) == ("DICOM", size)
    assert decoded.several == several
    assert 5 < decoded.pixels.mean() < 235
    if name.startswith("SC_rgb"):  # stripes, of which red is the uppermost
        assert decoded.pixels[1, 16].astype(int) == pytest.approx([255, 0, 0], abs=3)


def test_all_compressions_show_the_same():
    names = ("MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_expb.dcm")
    first, *others = (images.decode((SAMPLES / n).read_bytes(), 64, "stretch") for n in names)
    assert all(np.array_equal(first, other) for other in others)


def test_masks_of_one_bit_are_black_and_white():
    content = (SAMPLES / "liver_1frame.dcm").read_bytes()
    assert images.decode(content, 512, "stretch").max() == 255


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("waveform_ecg.dcm", "not an image: DICOM without pixels"),
        (
            "MR_small_jpeg_ls_lossless.dcm",
            "unsupported format: DICOM compressed as JPEG-LS Lossless Image Compression; convert "
            "it with gdcmconv --raw",
        ),
        ("MR_truncated.dcm", "damaged (ValueError)"),
    ],
)
def test_what_cannot_be_read_says_why(name, reason):
    with pytest.raises(BadImage) as error:
        images.decode((SAMPLES / name).read_bytes(), 32, "stretch")
    assert error.value.reason == reason


def test_larger_pictures_are_not_decoded():
    content = dicom(RAMP, Rows=30_000, Columns=30_000)
    with pytest.raises(BadImage, match="too large"):
        images.decode(content, 32, "stretch")


def test_without_pydicom_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(BadImage) as error:
        images.decode(dicom(RAMP), 32, "stretch")
    assert error.value.reason == (
        'unsupported format: DICOM; pip install "efftune[dicom]" makes it readable'
    )
