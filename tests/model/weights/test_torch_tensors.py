import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efftune.errors import DataError
from efftune.model import catalogue
from efftune.model.weights import download, torch_tensors

HEADERS = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
PATH = download.ensure_downloaded(catalogue.model("efficientnet-lite0"))


@pytest.fixture(scope="module")
def content():
    return PATH.read_bytes()


def value(plain: object) -> bytes:
    """A pickle without the opcodes that begin and end one."""
    return pickle.dumps(plain, 2)[2:-1]


def tensor_of(*, offset=0, shape=(2, 3), strides=(3, 1)) -> bytes:
    """The pickle of a dictionary with one tensor, "a"."""
    storage = b"(" + value("storage") + b"ctorch\nFloatStorage\n"
    storage += value("0") + value("cpu") + value(6) + value(None) + b"tQ"
    arguments = b"(" + storage + b"".join(map(value, (offset, shape, strides, False, None))) + b"t"
    return b"}" + value("a") + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs"


def small_file(entries=b"", *, count=6, numbers=None, **of_tensor):
    """A file as PyTorch wrote them before 1.6, with one tensor, "a", of six numbers."""

    parts = [pickle.dumps(each, 2) for each in HEADERS]
    parts += [b"\x80\x02" + (entries or tensor_of(**of_tensor)) + b".", pickle.dumps(["0"], 2)]
    parts += [
        struct.pack("<q", count),
        np.arange(6, dtype="<f4").tobytes() if numbers is None else numbers,
    ]
    return b"".join(parts)


def test_small_file_is_read():
    tensors = torch_tensors.read(small_file())
    assert tensors["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_strides_and_offset_are_honoured():
    tensors = torch_tensors.read(small_file(offset=1, shape=(2, 2), strides=(1, 2)))
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
        torch_tensors.read(small_file(**changes))


@pytest.mark.parametrize(
    "call", ["os.system", "builtins.eval", "torch.load", "collections.Counter"]
)
def test_file_that_asks_for_more_than_tensors_is_refused(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module, name = call.rsplit(".", 1)
    attack = f"c{module}\n{name}\n(S'touch owned'\ntR.".encode()
    headers = b"".join(pickle.dumps(each, 2) for each in HEADERS)
    with pytest.raises(DataError, match=f"refers to {module}.{name}"):
        torch_tensors.read(headers + attack)
    assert not (tmp_path / "owned").exists()


def test_attack_in_the_first_pickle_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"refers to os\.system"):
        torch_tensors.read(b"cos\nsystem\n(S'touch owned'\ntR.")
    assert not (tmp_path / "owned").exists()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_file_is_read_or_refused_cleanly(data):
    content = bytearray(small_file())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        tensors = torch_tensors.read(bytes(content[: data.draw(st.integers(0, len(content)))]))
    except DataError:
        return
    assert all(isinstance(each, np.ndarray) for each in tensors.values())


def test_truncated_weights_are_refused(content):
    with pytest.raises(DataError):
        torch_tensors.read(content[:-1000])


def zipped(pickled: bytes, **files: bytes) -> bytes:
    """A file as PyTorch has written them since 1.6."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in files.items():
            archive.writestr(f"archive/data/{name}", content)
    return stream.getvalue()


def todays_file(count=6):
    numbers = np.arange(count, dtype="<f4").tobytes()
    return zipped(b"\x80\x02" + tensor_of() + b".", **{"0": numbers})


def test_todays_format_is_read():
    assert torch_tensors.read(todays_file())["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_todays_format_with_too_few_numbers_is_refused():
    with pytest.raises(DataError, match="extends beyond its data"):
        torch_tensors.read(todays_file(count=5))


def test_attack_in_todays_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"refers to os\.system"):
        torch_tensors.read(zipped(b"cos\nsystem\n(S'touch owned'\ntR."))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("key", ["model", "state_dict", "state_dict_ema"])
def test_checkpoint_gives_the_weights_it_holds(key):
    nested = b"}" + value(key) + tensor_of() + b"s" + value("epoch") + value(3) + b"s"
    assert torch_tensors.read(small_file(nested))["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
