import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efftune.errors import DataError
from efftune.model.weights import safetensors_file

VALUES = np.arange(6, dtype="<f4").tobytes()


def written(header, values=VALUES):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


def entry(dtype="F32", shape=(2, 3), offsets=(0, 24)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_tensors_are_read_by_name():
    content = written({"__metadata__": {"format": "pt"}, "a": entry(), "b": entry(shape=(6,))})
    tensors = safetensors_file.read(content)
    assert list(tensors) == ["a", "b"]
    assert tensors["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert tensors["b"].shape == (6,)


def test_half_precision_is_read():
    half = np.array([1.5, -2.0], "<f2").tobytes()
    assert safetensors_file.read(written({"a": entry("F16", (2,), (0, 4))}, half))[
        "a"
    ].tolist() == [
        1.5,
        -2.0,
    ]
    bfloat = bytes([0xC0, 0x3F, 0x00, 0xC0])  # the upper halves of 1.5 and -2 in float32
    found = safetensors_file.read(written({"a": entry("BF16", (2,), (0, 4))}, bfloat))["a"]
    assert (found.dtype, found.tolist()) == (np.float32, [1.5, -2.0])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no weights",
        written({"a": entry(offsets=(4, 28))}),
        written({"a": entry(offsets=(-24, 0))}),
        written({"a": entry(shape=(3, 3))}),
        written({"a": entry("F8_E4M3", (24,))}),
        written([1, 2]),
        written({"a": entry()})[:-1],
    ],
)
def test_damaged_file_is_refused(content):
    with pytest.raises(DataError):
        safetensors_file.read(content)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_altered_file_is_read_or_refused_cleanly(data):
    content = bytearray(written({"a": entry()}))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        tensors = safetensors_file.read(bytes(content))
    except DataError:
        return
    assert all(isinstance(each, np.ndarray) for each in tensors.values())


@pytest.mark.torch
def test_files_of_safetensors_are_read(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    tensors = {"a": np.random.default_rng(0).normal(size=(3, 4)).astype("f4"), "b": np.arange(3)}
    numpy.save_file(tensors, tmp_path / "a.safetensors")
    found = safetensors_file.read((tmp_path / "a.safetensors").read_bytes())
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)
