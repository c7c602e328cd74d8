"""Reading `.safetensors` files.

Eight bytes with the length of a JSON header; the header, with the type, the shape and the place of
each tensor; and the tensors' values. Source: https://huggingface.co/docs/safetensors
"""

import json
import math
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from efftune.errors import DataError

_LENGTH = 8
_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
}


def read(content: bytes) -> dict[str, NDArray[Any]]:
    """Read the tensors of a file.

    Args:
        content: the file's bytes.

    Returns:
        Arrays by name, bfloat16 as float32.

    Raises:
        DataError: it is not such a file, is truncated, or has tensors of another type.
    """
    try:
        length = int.from_bytes(content[:_LENGTH], "little")
        start = _LENGTH + length
        if len(content) < _LENGTH or start > len(content):
            raise DataError("it is not a safetensors file, or it is truncated.")
        header = json.loads(content[_LENGTH:start].decode())
        values = memoryview(content)[start:]
        entries = {name: each for name, each in header.items() if name != "__metadata__"}
        return {name: _tensor(name, entry, values) for name, entry in entries.items()}
    # A damaged header can be any JSON, and raise almost any exception.
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"its header is damaged: {error}.") from None


def _tensor(name: str, entry: dict[str, Any], values: memoryview) -> NDArray[Any]:
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise DataError(f"{name} has the type {entry['dtype']}, which no weights have.")
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    if not 0 <= begin <= end <= len(values) or end - begin != math.prod(shape) * dtype.itemsize:
        raise DataError(f"it is damaged: {name} extends beyond its data.")
    array = np.frombuffer(values[begin:end], dtype).reshape(shape)
    return array.astype(np.float32) if entry["dtype"] == "BF16" else array
