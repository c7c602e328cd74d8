import json
import zipfile

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from efftune.delivery import litert_file

KNOWN = {"input": "pixels", "output": "shares", "model": "lite0", "run": "r", "producer": "efftune"}


@pytest.mark.parametrize("threshold", [0.25, np.nextafter(1.0, 2.0)])
def test_metadata_are_a_buffer_of_the_file(tmp_path, threshold):
    path = tmp_path / "model.tflite"
    graph = schema.SubGraphT(tensors=[], inputs=[], outputs=[], operators=[])
    model = schema.ModelT(
        version=3, operatorCodes=[], subgraphs=[graph], buffers=[schema.BufferT()]
    )
    path.write_bytes(litert_file.packed(model))
    litert_file.describe(path, ["a", "ü", "caf\udce9"], KNOWN, threshold)
    described = schema.ModelT.InitFromPackedBuf(bytearray(path.read_bytes()), 0)
    entry, known = described.metadata
    assert entry.name == b"TFLITE_METADATA"
    assert known.name == b"EFFTUNE_METADATA"
    assert json.loads(bytes(described.buffers[known.buffer].data)) == KNOWN
    content = bytes(described.buffers[entry.buffer].data)
    assert content[4:8] == b"M001"
    for text in (b"lite0", b"labels.txt", b"efftune"):
        assert text in content
    stored = np.float32(0.25) if threshold < 1 else np.nextafter(np.float32(1), np.float32(2))
    assert stored.tobytes() in content
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode() == "a\nü\ncaf\\udce9\n"
