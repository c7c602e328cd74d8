"""First bytes, or all, of files that are not read as pictures."""

import base64
import gzip
import io
import json
import pickle
import struct
import tarfile
import wave
import zipfile

import numpy as np

_NOISE = np.random.default_rng(0).bytes(3000)


def _zip(name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr(name, b"content" * 40)
    return stream.getvalue()


def _tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as file:
        member = tarfile.TarInfo("photos/a.jpg")
        member.size = 7
        file.addfile(member, io.BytesIO(b"content"))
    return stream.getvalue()


def _sound() -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(800))
    return stream.getvalue()


_HTML = "<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>No.</body></html>"
_JSON = json.dumps({"error": {"code": 403, "message": "Rate limit exceeded"}})
NO_PICTURES = {
    "nothing": b"",
    "text": b"These are the pictures of our trip.\n" * 9,
    "one letter": b"a",
    "line end": b"\n",
    "zeros": bytes(4000),
    "one zero": b"\0",
    "ones": b"\xff" * 4000,
    "noise": b"\x9b" + _NOISE,
    "utf-16 text": "Ger\u00e4t und Bild".encode("utf-16"),
    "latin text": "Ger\u00e4te f\u00fcr Bilder\n".encode("latin-1"),
    "web page": _HTML.encode(),
    "web page with mark": b"\xef\xbb\xbf" + _HTML.encode(),
    "web page after blanks": b"\r\n\r\n   " + _HTML.encode(),
    "web page after comment": b"<!-- cached -->\n" + _HTML.encode(),
    "web page in capitals": _HTML.upper().encode(),
    "web page in xml": b'<?xml version="1.0" encoding="UTF-8"?>\n' + _HTML.encode(),
    "web page without doctype": b"<head><title>Sign in</title></head>",
    "error in xml": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "json": _JSON.encode(),
    "json list": b"[1, 2, 3]",
    "annotations": b"<annotation><filename>a.jpg</filename></annotation>",
    "boxes": b"0 0.5 0.5 0.2 0.1\n1 0.2 0.1 0.3 0.3\n",
    "pointer to large file": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "picture as text": base64.b64encode(b"\xff\xd8\xff\xe0" + _NOISE),
    "picture as link": b"data:image/png;base64,iVBORw0KGgo=",
    "address": b"[InternetShortcut]\r\nURL=https://example.org/a.jpg\r\n",
    "script": b"#!/bin/sh\nexit 0\n",
    "definitions": b"#define width 16\n",
    "table": b"path,label\na.jpg,cat\n",
    "zip": _zip("a.jpg"),
    "document": _zip("word/document.xml"),
    "tar": _tar(),
    "gzip": gzip.compress(b"content", mtime=0),
    "7z": b"7z\xbc\xaf\x27\x1c" + _NOISE,
    "rar": b"Rar!\x1a\x07\x01\x00" + _NOISE,
    "xz": b"\xfd7zXZ\0" + _NOISE,
    "bzip2": b"BZh91AY&SY" + _NOISE,
    "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
    "program": b"MZ\x90\0\x03\0\0\0" + _NOISE,
    "elf": b"\x7fELF\x02\x01\x01" + bytes(200),
    "database": b"SQLite format 3\0\x10\0" + bytes(4000),
    "pickle": pickle.dumps({"a": 1}),
    "parquet": b"PAR1" + _NOISE + b"PAR1",
    "sound": _sound(),
    "mp3": b"ID3\x04\0\0\0\0\0\x23" + _NOISE,
    "ogg": b"OggS\0\x02" + _NOISE,
    "folder settings of macOS": b"\0\0\0\1Bud1\0\0\x10\0" + bytes(500),
    "thumbnails of Windows": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500),
    "font": b"\0\1\0\0\0\x11\1\0\0\4\0\x10" + _NOISE,
    "numbers": struct.pack("<64d", *range(64)),
}

_GUID = b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c"
_VIDEO = r"not an image(: a video)?"
_RAW = r"unsupported format: camera raw; .+"
_BOX = b"\0\0\0\x18ftyp%b\0\0\0\0%bmp41"
# Of camera raw files, many are TIFF files: first the rest of one is missing.
_RAW_AS_TIFF = rf"{_RAW}|truncated|damaged.*"
VIDEOS_AND_RAW = {
    **{
        brand.decode().strip(): (_BOX % (brand, brand) + b"\0\0\0\x08free", _VIDEO)
        for brand in (b"isom", b"mp42", b"qt  ", b"M4V ", b"3gp5", b"dash", b"avc1", b"MSNV")
    },
    "quicktime": (b"\0\0\0\x08wide\0\0\x10\0mdat", _VIDEO),
    "matroska": (b"\x1aE\xdf\xa3\x01\0\0\0\0\0\0\x1f", _VIDEO),
    "avi": (b"RIFF\x24\x10\0\0AVI LIST", _VIDEO),
    "mpeg": (b"\0\0\1\xba\x44\0\x04", _VIDEO),
    "transport stream": (b"\x47\x40\0\x10" + bytes(184) + b"\x47\x40\0\x10", _VIDEO),
    "wmv": (_GUID + bytes(30), _VIDEO),
    "flv": (b"FLV\x01\x05\0\0\0\x09", _VIDEO),
    "m4a": (_BOX % (b"M4A ", b"M4A "), r"not an image(: a sound)?"),
    "CR3": (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", _RAW),
    "CR2": (b"II*\0\x10\0\0\0CR\x02\0\0\0\0\0" + bytes(60), _RAW),
    "CRW": (b"II\x1a\0\0\0HEAPCCDR\x02\0\x01\0", _RAW),
    "RAF": (b"FUJIFILMCCD-RAW 0201FF389501", _RAW),
    "ORF": (b"IIRO\x08\0\0\0", _RAW),
    "RW2": (b"IIU\0\x18\0\0\0", _RAW),
    "X3F": (b"FOVb\0\0\3\0", _RAW),
    "MRW": (b"\0MRM\0\1\0\0\0PRD", _RAW),
    "NEF": (b"MM\0*\0\0\0\x08\0\x1b\0\xfe\0\x04\0\0\0\1\0\0\0\1", _RAW_AS_TIFF),
    "ARW": (b"II*\0\x08\0\0\0\x12\0\xfe\0\x04\0\1\0\0\0\1\0\0\0", _RAW_AS_TIFF),
    "DNG": (b"II*\0\x08\0\0\0\x3a\0\xfe\0\x04\0\1\0\0\0\1\0\0\0", _RAW_AS_TIFF),
}

UNREAD = {  # pictures in formats that are known by their first bytes
    "psd": b"8BPS\0\1" + bytes(60),
    "jxl": b"\xff\x0a\xfa\x1f\x41" + _NOISE,
    "jxl in boxes": b"\0\0\0\x0cJXL \r\n\x87\n" + _NOISE,
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "svg after xml": b'<?xml version="1.0"?>\n<!-- by hand -->\n<svg width="9"/>',
    "svg after doctype": b'<?xml version="1.0"?>\n<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN">',
    "svg with mark": b"\xef\xbb\xbf<svg/>",
    "xcf": b"gimp xcf v011\0",
    "exr": b"v/1\x01\x02\0\0\0" + _NOISE,
    "hdr": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n",
    "jxr": b"II\xbc\x01\x08\0\0\0",
    "dds": b"DDS \x7c\0\0\0" + bytes(124),
    "bpg": b"BPG\xfb\0\0",
    "fits": b"SIMPLE  =                    T" + b" " * 2000,
    "npy": b"\x93NUMPY\1\0v\0{'descr': '|u1', 'fortran_order': False, 'shape': (9, 9)}\n",
    "emf": struct.pack("<II8i", 1, 88, *[0] * 8) + b" EMF" + bytes(60),
    "wmf": b"\xd7\xcd\xc6\x9a" + bytes(60),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(60),
    "grib": b"GRIB\0\0\x64\x01" + bytes(60),
    "bufr": b"BUFR\0\0\x64\x01" + bytes(60),
    "flif": b"FLIF\x41\x31" + _NOISE,
    "djvu": b"AT&TFORM\0\0\1\0DJVU",
    "dpx": b"SDPX\0\0\x08\0" + bytes(400),
    "cineon": b"\x80\x2a\x5f\xd7" + bytes(400),
    "iff": b"FORM\0\0\1\0ILBM",
    "jng": b"\x8bJNG\r\n\x1a\n" + bytes(60),
    "mng": b"\x8aMNG\r\n\x1a\n" + bytes(60),
    "nifti": struct.pack("<i", 348) + bytes(340) + b"n+1\0" + bytes(60),
    "jls": bytes.fromhex("ffd8fff7000b0800220028010111 00ffda0008010100000000") + _NOISE[:400],
}
