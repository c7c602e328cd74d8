"""The image formats that can be read, and the names of those that cannot: the only list of either.

A format is recognised by the first bytes of a file, never by its name.
"""

import re
from dataclasses import dataclass

from efftune.errors import BadImage

HEAD = 4096  # bytes of a file that `detect` needs at most
NOT_AN_IMAGE = "not an image"
EMPTY = "empty file"
UNSUPPORTED = "unsupported format"
TOO_LARGE = "too large"
MOST_PIXELS = 89_000_000  # larger pictures would need more than 350 MB to decode
_MOST_SCANNED = 2_000_000_000  # pixels of all scans of a JPEG together; more would take seconds


@dataclass(frozen=True, slots=True)
class Format:
    """A format that can be read.

    Attributes:
        suffixes: of its files, in lower case, the usual one first.
        starts: how its files start, as a regular expression.
        several: what further pictures in a file are, of which only the first is used: frames or
            pages. Empty where they are other views of the same, as in phones' photos.
        plugins: of Pillow, that read it, if not the one of the same name.
    """

    suffixes: tuple[str, ...]
    starts: bytes
    several: str = ""
    plugins: tuple[str, ...] = ()


def _format(suffixes: str, starts: bytes, *plugins: str, several: str = "") -> Format:
    return Format(tuple(suffixes.split()), starts, several, plugins)


_TIFF = rb"(?:II\*\x00|MM\x00\*)(?!.{4}CR)|II\+\x00|MM\x00\+"  # but for camera raw
_FTYP = rb".{4}ftyp"
# A header of Targa has no signature: colour map, kind, its entries, origin, size, depth and flags
# must fit each other.
_TARGA = (
    rb".(?:\x00[\x02\x03\x0a\x0b]\x00{5}|\x01[\x01\x09].{4}[\x0f\x10\x18\x20])"
    rb".{4}(?!\x00\x00)..(?!\x00\x00)..[\x01\x08\x10\x18\x20][\x00-\x3f]"
)
FORMATS = {
    # First, as its files may start as a TIFF file does.
    "DICOM": _format(".dcm .dicom .ima", rb".{128}DICM", several="frame"),
    "JPEG": _format(".jpg .jpeg .jpe .jfif .mpo", rb"\xff\xd8\xff(?!\xf7)", "JPEG", "MPO"),
    "PNG": _format(".png .apng", rb"\x89PNG\r\n\x1a\n", several="frame"),
    "WEBP": _format(".webp", rb"RIFF.{4}WEBP", several="frame"),
    "GIF": _format(".gif", rb"GIF8[79]a", several="frame"),
    "HEIC": _format(".heic .heif .hif", _FTYP + rb"(?:hei[cxms]|hev[cx]|mif1|msf1)"),
    "AVIF": _format(".avif .avifs", _FTYP + rb"avi[fs]", several="frame"),
    "TIFF": _format(".tif .tiff", _TIFF, several="page"),
    "BMP": _format(".bmp .dib", rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\x00{3}"),
    "JPEG2000": _format(
        ".jp2 .j2k .jpx .jpf .jpc .j2c", rb"\x00{3}\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"
    ),
    "PPM": _format(".ppm .pgm .pbm .pnm .pfm", rb"P[1-6f](?:\s|#[^\n]*\n)+-?\d"),
    "ICO": _format(".ico", rb"\x00\x00\x01\x00[^\x00]\x00"),
    "TGA": _format(".tga .tpic .icb .vda .vst", _TARGA),
}
SUFFIXES = frozenset(suffix for each in FORMATS.values() for suffix in each.suffixes)

_SAVE, _WRITE = "save it as PNG or JPEG", "write its pictures as PNG or TIFF"
_RAW = "camera raw; export it as JPEG or TIFF"
_UNREADABLE = (  # pictures, and how to convert them
    (rb"8BPS", f"Photoshop (PSD); {_SAVE}"),
    (rb"\xff\x0a|\x00{3}\x0cJXL \r\n\x87\n", "JPEG XL; convert it with djxl"),
    (rb"(?:II\*\x00|MM\x00\*).{4}CR", _RAW),
    (_FTYP + rb"crx ", _RAW),
    (rb"FUJIFILMCCD-RAW|IIR[OS]|MMOR|IIU\x00|II\x1a.{3}HEAPCCDR|FOVb|\x00MRM", _RAW),
    (rb"gimp xcf", f"GIMP (XCF); {_SAVE}"),
    (rb"v/1\x01", "OpenEXR; convert it to PNG or float TIFF"),
    (rb"#\?R", "Radiance HDR; convert it to PNG or float TIFF"),
    (rb"II\xbc\x01", f"JPEG XR; {_SAVE}"),
    (rb"DDS ", f"DirectDraw (DDS); {_SAVE}"),
    (rb"qoif", f"QOI; {_SAVE}"),
    (rb"BPG\xfb", f"BPG; {_SAVE}"),
    (rb"icns", f"Apple icon (ICNS); {_SAVE}"),
    (rb"\xff\xd8\xff\xf7", f"JPEG-LS; {_SAVE}"),
    (rb"FLIF", f"FLIF; {_SAVE}"),
    (rb"[\x8a\x8b][MJ]NG\r\n\x1a\n", f"MNG or JNG; {_SAVE}"),
    (rb"AT&TFORM", f"DjVu; {_SAVE}"),
    (rb"FORM.{4}(?:ILBM|PBM )", f"Amiga (IFF); {_SAVE}"),
    (rb"SDPX|XPDS|\x80\x2a\x5f\xd7|\xd7\x5f\x2a\x80", f"DPX or Cineon; {_SAVE}"),
    (rb"SIMPLE  =", "FITS; convert it to float TIFF"),
    (rb"\x93NUMPY", "NumPy array; write it as PNG or TIFF"),
    (rb"\x89HDF\r\n\x1a\n", f"HDF5; {_WRITE}"),
    (rb"GRIB|BUFR", f"GRIB or BUFR; {_WRITE}"),
    (rb".{344}n[+i][12]\x00", f"NIfTI; {_WRITE}"),
    # Headers without a signature: one layer (of floats), and the first layer is a picture.
    (rb"\x00\x00\x80\x3f.{12}\x00\x00\x80\x3f", f"SPIDER; {_WRITE}"),
    (rb"\x3f\x80\x00\x00.{12}\x3f\x80\x00\x00", f"SPIDER; {_WRITE}"),
    (rb"\x01\xda[\x00\x01]", f"Silicon Graphics (SGI); {_SAVE}"),
    (rb"\x59\xa6\x6a\x95", f"Sun raster; {_SAVE}"),
    (rb"\x0a[\x00-\x05]\x01[\x01\x02\x04\x08]", f"PCX; {_SAVE}"),
    (rb"DanM|LinS", f"Microsoft Paint (MSP); {_SAVE}"),
    (rb"BLP[12]", f"Blizzard (BLP); {_SAVE}"),
    (rb"Image type: ", f"IFUNC (IM); {_SAVE}"),
    (rb"\s*#define\s+\w+_width\s", f"X bitmap (XBM); {_SAVE}"),
    (rb"[\x28\x6c\x7c]\x00{3}.{8}\x01\x00[\x01\x04\x08\x10\x18\x20]\x00", f"DIB; {_SAVE}"),
    (rb"P7\n|PF\n", f"PAM or colour PFM; {_SAVE}"),
    (rb"\xd7\xcd\xc6\x9a|\x01\x00\x00\x00.{36} EMF", f"Windows metafile; {_SAVE}"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", f"PostScript; {_SAVE}"),
    (rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml.*?|<!--.*?)?<(?i:!DOCTYPE )?svg", f"SVG; {_SAVE}"),
)
_OTHER = (  # files that are no pictures
    (rb"%PDF", "a PDF document"),
    (_FTYP + rb"M4[AB] ", "a sound"),
    (_FTYP, "a video"),
    (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11|FLV\x01", "a video"),
    (rb"\x1aE\xdf\xa3|RIFF.{4}AVI |\x00\x00\x01[\xba\xb3]|.{4}(?:moov|mdat)", "a video"),
    (rb"PK\x03\x04|Rar!|7z\xbc\xaf|\x1f\x8b", "an archive"),
    (
        rb"(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*)?<(?i:!doctype html|html|head)",
        "a web page",
    ),
)
_KNOWN = [(name, re.compile(each.starts, re.DOTALL)) for name, each in FORMATS.items()]
_NAMED = [
    (f"{reason}: {name}", re.compile(start, re.DOTALL))
    for reason, table in ((UNSUPPORTED, _UNREADABLE), (NOT_AN_IMAGE, _OTHER))
    for start, name in table
]


CAMERA_RAW = f"{UNSUPPORTED}: {_RAW}"


def detect(head: bytes) -> str:
    """The format of a file.

    Args:
        head: its first bytes, `HEAD` or all of them.

    Returns:
        A key of `FORMATS`.

    Raises:
        BadImage: the file is empty, or is not a picture in one of `FORMATS`; its reason names
            other formats that are known.
    """
    if not head:
        raise BadImage(EMPTY)
    for name, start in _KNOWN:
        if start.match(head):
            return "AVIF" if name == "HEIC" and _is_avif(head) else name
    for reason, start in _NAMED:
        if start.match(head):
            raise BadImage(reason)
    raise BadImage(NOT_AN_IMAGE)


def _is_avif(head: bytes) -> bool:
    """Whether a file of a common brand, such as `mif1`, names AVIF among its other brands."""
    brands = head[8 : max(16, int.from_bytes(head[:4], "big"))]
    return head[8:12] in (b"mif1", b"msf1") and b"avif" in brands and b"heic" not in brands


def require_few_scans(jpeg: bytes, pixels: int) -> None:
    """Check that a progressive JPEG is decoded in time: each scan takes as long as a picture.

    Real ones have about 10; a small file may have 100,000.

    Args:
        jpeg: the file.
        pixels: of the picture.

    Raises:
        BadImage: it has too many.
    """
    if jpeg.count(b"\xff\xda") * pixels > _MOST_SCANNED:
        raise BadImage(TOO_LARGE)
