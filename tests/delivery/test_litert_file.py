import zipfile

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import efftune
from efftune.delivery import litert_file

KNOWN = {"input": "pixels", "output": "shares", "model": "lite0", "run": "r", "producer": "efftune"}


def test_metadata_are_a_buffer_of_the_file(tmp_path):
    path = tmp_path / "model.tflite"
    graph = schema.SubGraphT(tensors=[], inputs=[], outputs=[], operators=[])
    model = schema.ModelT(
        version=3, operatorCodes=[], subgraphs=[graph], buffers=[schema.BufferT()]
    )
    path.write_bytes(litert_file.packed(model))
    litert_file.describe(path, ["a", "ü"], KNOWN, 0.25)
    described = schema.ModelT.InitFromPackedBuf(bytearray(path.read_bytes()), 0)
    (entry,) = described.metadata
    assert entry.name == b"TFLITE_METADATA"
    content = bytes(described.buffers[entry.buffer].data)
    assert content[4:8] == b"M001"
    for text in (b"lite0", b"labels.txt", b"efftune", np.float32(0.25).tobytes()):
        assert text in content
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode() == "a\nü\n"


@pytest.mark.long
def test_conversion_that_fails_is_told(tmp_path):
    with pytest.raises(efftune.DataError, match="TensorFlow could not convert"):
        litert_file.convert(tmp_path, tmp_path / "model.tflite", "f32")
