"""DICOM: pictures of medical scanners, read by pydicom, which is an extra of efftune."""

import io
from typing import Any

import numpy as np

from efftune.data import formats
from efftune.data.bit_depth import Range, Values, to_8_bits
from efftune.errors import BadImage

_NO_PIXELS = f"{formats.NOT_AN_IMAGE}: DICOM without pixels"
_NOT_INSTALLED = f'{formats.UNSUPPORTED}: DICOM; pip install "efftune[dicom]" makes it readable'
_ABOVE_ALL = 2.0**40  # of any value that a scanner stores


def opened(content: bytes) -> tuple[Values, bool]:
    """The first frame of a DICOM file.

    Args:
        content: the bytes of the file.

    Returns:
        Its values, (height, width) or (height, width, 3): uint8 if the file has 8 bits or says
        which values are black and white (its window), else integers or floats in the unit of the
        scanner; and whether there are more frames.

    Raises:
        BadImage: pydicom is not installed, or the file has no pixels, too many of them, or a
            compression that pydicom does not read alone.
    """
    try:
        from pydicom import dcmread
        from pydicom.pixels import pixel_array
    except ModuleNotFoundError:
        raise BadImage(_NOT_INSTALLED) from None
    file = dcmread(io.BytesIO(content))
    if not any(name in file for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise BadImage(_NO_PIXELS)
    if file.Rows * file.Columns > formats.MOST_PIXELS:
        raise BadImage(formats.TOO_LARGE)
    try:
        frame = pixel_array(file, index=0)
    except (RuntimeError, NotImplementedError):
        name = f"DICOM compressed as {file.file_meta.TransferSyntaxUID.name}"
        raise BadImage(f"{formats.UNSUPPORTED}: {name}; convert it with gdcmconv --raw") from None
    return _windowed(frame, file), int(file.get("NumberOfFrames") or 1) > 1


def _windowed(frame: Values, file: Any) -> Values:
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

    if file.PhotometricInterpretation == "PALETTE COLOR":
        white = 2.0 ** int(file.RedPaletteColorLookupTableDescriptor[2]) - 1
        frame = to_8_bits(apply_color_lut(frame, file), (0, white))
    if frame.ndim == 3:
        return frame
    low_is_white = file.PhotometricInterpretation == "MONOCHROME1"
    if file.get("VOILUTSequence"):
        limits: Range = 0.0, 2.0 ** int(file.VOILUTSequence[0].LUTDescriptor[2]) - 1
    elif file.get("WindowCenter") is not None and file.get("WindowWidth") is not None:
        black, white = apply_voi_lut(np.array([-_ABOVE_ALL, _ABOVE_ALL]), file).tolist()
        limits = black, white
    else:
        # Turned within the stored bits: the range of a set is then that of its other pictures.
        lowest = -(2 ** (file.BitsStored - 1)) if file.PixelRepresentation else 0
        highest = lowest + 2**file.BitsStored - 1
        if low_is_white:
            frame = (lowest + highest - frame.astype(np.int64)).astype(frame.dtype)
        if frame.dtype == np.uint8:  # of 8 bits, or fewer in masks
            return to_8_bits(frame, (0, highest))
        return np.asarray(apply_modality_lut(frame, file))
    shown = to_8_bits(apply_voi_lut(apply_modality_lut(frame, file), file), limits)
    return 255 - shown if low_is_white else shown
