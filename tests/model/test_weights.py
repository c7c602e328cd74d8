import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efftune.errors import DataError
from efftune.model import catalogue, lite, weights

HEADERS = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
PATH = catalogue.weights_path(catalogue.model("efficientnet-lite0"))


@pytest.fixture(scope="module")
def content():
    return PATH.read_bytes()


def small_file(*, offset=0, shape=(2, 3), strides=(3, 1), count=6, numbers=None):
    """A file as PyTorch wrote them before 1.6, with one tensor, "a", of six numbers."""

    def value(plain: object) -> bytes:
        return pickle.dumps(plain, 2)[2:-1]  # without the opcodes that begin and end a pickle

    storage = b"(" + value("storage") + b"ctorch\nFloatStorage\n"
    storage += value("0") + value("cpu") + value(6) + value(None) + b"tQ"
    arguments = b"(" + storage + b"".join(map(value, (offset, shape, strides, False, None))) + b"t"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"
    parts = [pickle.dumps(each, 2) for each in HEADERS]
    parts += [b"\x80\x02}" + value("a") + tensor + b"s.", pickle.dumps(["0"], 2)]
    parts += [
        struct.pack("<q", count),
        np.arange(6, dtype="<f4").tobytes() if numbers is None else numbers,
    ]
    return b"".join(parts)


def test_small_file_is_read():
    tensors = weights.read_torch(small_file())
    assert tensors["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_strides_and_offset_are_honoured():
    tensors = weights.read_torch(small_file(offset=1, shape=(2, 2), strides=(1, 2)))
    assert tensors["a"].tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": 1},
        {"offset": -1},
        {"shape": (3, 3)},
        {"strides": (100, 1)},
        {"strides": (-3, 1)},
        {"count": 7},
        {"count": -1},
        {"numbers": b""},
    ],
)
def test_tensor_beyond_its_data_is_refused(changes):
    with pytest.raises(DataError):
        weights.read_torch(small_file(**changes))


@pytest.mark.parametrize(
    "call", ["os.system", "builtins.eval", "torch.load", "collections.Counter"]
)
def test_file_that_asks_for_more_than_tensors_is_refused(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module, name = call.rsplit(".", 1)
    attack = f"c{module}\n{name}\n(S'touch owned'\ntR.".encode()
    headers = b"".join(pickle.dumps(each, 2) for each in HEADERS)
    with pytest.raises(DataError, match=f"asks for {module}.{name}"):
        weights.read_torch(headers + attack)
    assert not (tmp_path / "owned").exists()


def test_attack_in_the_first_pickle_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"asks for os\.system"):
        weights.read_torch(b"cos\nsystem\n(S'touch owned'\ntR.")
    assert not (tmp_path / "owned").exists()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_file_is_read_or_refused_cleanly(data):
    content = bytearray(small_file())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        tensors = weights.read_torch(bytes(content[: data.draw(st.integers(0, len(content)))]))
    except DataError:
        return
    assert all(isinstance(each, np.ndarray) for each in tensors.values())


def test_truncated_weights_are_refused(content):
    with pytest.raises(DataError):
        weights.read_torch(content[:-1000])


def test_other_weights_are_refused_by_their_checksum(tmp_path, content):
    path = tmp_path / "lite0.pth"
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match=r"lite0\.pth is not the published one"):
        weights.read_verified(path, catalogue.model("efficientnet-lite0").weights.sha256)


def test_every_tensor_finds_its_layer(content):
    """All tensors but the classes' and the counters are used, each once."""
    tensors = weights.read_torch(content)
    used = []

    class Watched(dict):
        def __getitem__(self, name):
            used.append(name)
            return super().__getitem__(name)

    weights.load_lite(lite.backbone("efficientnet-lite0", 32), Watched(tensors))
    expected = [n for n in tensors if not n.startswith("_fc") and "num_batches" not in n]
    assert sorted(used) == sorted(expected)


def test_weights_of_another_variant_are_refused(content):
    with pytest.raises(DataError, match="do not fit efficientnet-lite2"):
        weights.load_lite(lite.backbone("efficientnet-lite2", 32), weights.read_torch(content))
