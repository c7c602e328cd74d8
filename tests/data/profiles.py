"""ICC profiles of displays and printers, as files carry them."""

import itertools
import struct
from collections.abc import Mapping

import cv2
import numpy as np

# Linear colours to XYZ under the white that profiles refer to.
DISPLAY_P3 = np.array(
    [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
)
SRGB = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)
ADOBE_RGB = np.array(
    [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
)
_GRID = 2  # inks: none and all


def xyz(values: np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def profile(space: bytes, gamma: float, to_xyz: np.ndarray | None = None) -> bytes:
    """An ICC profile of a display whose channels all have the same gamma."""
    curve = b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256)) + b"\0\0"
    tags = {b"wtpt": xyz((0.9642, 1, 0.8249))}
    if to_xyz is None:
        tags[b"kTRC"] = curve
    else:
        for name, column in zip((b"r", b"g", b"b"), to_xyz.T, strict=True):
            tags |= {name + b"XYZ": xyz(column), name + b"TRC": curve}
    return _packed((b"mntr", space, b"XYZ "), tags)


def printer() -> bytes:
    """An ICC profile of a printer with four inks, each of which takes its share of the light."""
    inks = np.array(list(itertools.product((0, 1), repeat=4)), np.float32)
    light = ((1 - inks[:, :3]) * (1 - inks[:, 3:])).astype(np.float32)
    lab = cv2.cvtColor(light[None], cv2.COLOR_RGB2LAB)[0]
    cells = np.stack([lab[:, 0] * 2.55, lab[:, 1] + 128, lab[:, 2] + 128], axis=1)
    straight = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes((4, 3, _GRID, 0))
    table += struct.pack(">9i", *(np.eye(3, dtype=int) * 65536).ravel().tolist())
    table += straight * 4 + cells.clip(0, 255).astype(np.uint8).tobytes() + straight * 3
    tags = {b"wtpt": xyz((0.9642, 1, 0.8249)), b"A2B0": table}
    return _packed((b"prtr", b"CMYK", b"Lab "), tags)


def _packed(kinds: tuple[bytes, bytes, bytes], tags: Mapping[bytes, bytes]) -> bytes:
    table, data = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        padded = content + bytes(-len(content) % 4)
        at = 128 + 4 + 12 * len(tags) + len(data)
        table, data = table + name + struct.pack(">II", at, len(content)), data + padded
    header = struct.pack(">I4sI4s4s4s", 128 + len(table) + len(data), b"", 0x02400000, *kinds)
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + data
