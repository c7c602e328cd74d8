"""LiteRT (TensorFlow Lite) files, described so that MediaPipe's tasks and others can use them.

The description is the metadata of LiteRT, a FlatBuffer in the file, and the labels are appended to
the file as a zip archive. What programs are to read is there once more, as JSON, in an entry of its
own.

Source: `metadata_schema.fbs` of MediaPipe, https://github.com/google-ai-edge/mediapipe.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LABELS = "labels.txt"
ENTRY = "EFFTUNE_METADATA"  # what is known of the run, as a JSON object of texts
_NAME = "TFLITE_METADATA"
_PARSER = "1.0.0"  # of what is described here
_LABELS_OF_AXIS, _RGB, _IMAGE, _NORMALIZATION, _THRESHOLD = 2, 1, 2, 1, 3  # in the schema


def describe(
    path: Path, labels: Sequence[str], metadata: Mapping[str, str], threshold: float
) -> None:
    """Add labels and metadata to a file.

    Args:
        path: the file, which is written again.
        labels: one line each.
        metadata: what is known of the run.
        threshold: the score below which an answer is unsure, 0 to 1.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(bytearray(path.read_bytes()), 0)
    known = json.dumps(dict(metadata), indent=1).encode()
    for name, content in ((_NAME, _metadata(metadata, threshold)), (ENTRY, known)):
        model.buffers.append(schema.BufferT(data=np.frombuffer(content, np.uint8)))
        entry = schema.MetadataT(name=name, buffer=len(model.buffers) - 1)
        model.metadata = [*(model.metadata or []), entry]
    path.write_bytes(packed(model))
    with zipfile.ZipFile(path, "a") as archive:
        text = "".join(f"{label}\n" for label in labels)
        archive.writestr(LABELS, text.encode(errors="backslashreplace"))


def packed(model: Any) -> bytes:
    """The bytes of a file, from its parts as LiteRT's schema has them."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@dataclass(frozen=True)
class _Table:
    """A table of a FlatBuffer: its values by their number in the schema."""

    fields: Mapping[int, Any]


def _metadata(known: Mapping[str, str], threshold: float) -> bytes:
    """The `ModelMetadata` of a classifier, as a FlatBuffer."""
    import flatbuffers

    graph = _Table({2: [_pixels(known["input"])], 3: [_probabilities(known["output"], threshold)]})
    about = "; ".join(f"{key}: {value}" for key, value in known.items())
    names = {0: known["model"], 1: about, 2: known["run"], 4: known["producer"]}
    model = _Table(names | {3: [graph], 5: known.get("licence", ""), 7: _PARSER})
    builder = flatbuffers.Builder(1024)
    builder.Finish(_written(builder, model), b"M001")
    return bytes(builder.Output())


def _pixels(description: str) -> _Table:
    """The `TensorMetadata` of the input: an image whose values are used as they are."""
    image = _Table({0: np.uint8(_IMAGE), 1: _Table({0: np.int8(_RGB)})})
    unchanged = _Table({0: np.uint8(_NORMALIZATION), 1: _Table({0: [0.0], 1: [1.0]})})
    values = _Table({0: [255.0], 1: [0.0]})
    return _Table({0: "pixels", 1: description, 3: image, 4: [unchanged], 5: values})


def _probabilities(description: str, threshold: float) -> _Table:
    """The `TensorMetadata` of the output, with the labels and the score threshold."""
    limit = np.float32(threshold)
    if threshold > 1:  # by less than a float32 can tell
        limit = np.nextafter(np.float32(1), np.float32(2))
    labels = _Table({0: LABELS, 1: "the classes", 2: np.int8(_LABELS_OF_AXIS)})
    unsure = _Table({0: np.uint8(_THRESHOLD), 1: _Table({0: limit})})
    values = _Table({0: [1.0], 1: [0.0]})
    parts = {0: "probabilities", 1: description, 4: [unsure], 5: values, 6: [labels]}
    return _Table(parts)


def _written(builder: Any, value: Any) -> Any:
    """Write a table, a string or a list, with what it holds first; returns its place."""
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, list) and isinstance(value[0], float):
        return builder.CreateNumpyVector(np.array(value, np.float32))
    if isinstance(value, list):
        places = [_written(builder, each) for each in value]
        builder.StartVector(4, len(places), 4)
        for place in reversed(places):
            builder.PrependUOffsetTRelative(place)
        return builder.EndVector()
    fields = {
        number: each if isinstance(each, np.generic) else _written(builder, each)
        for number, each in value.fields.items()
    }
    builder.StartObject(1 + max(fields))
    for number, each in fields.items():
        if isinstance(each, np.int8):
            builder.PrependInt8Slot(number, each.item(), 0)
        elif isinstance(each, np.uint8):
            builder.PrependUint8Slot(number, each.item(), 0)
        elif isinstance(each, np.float32):
            builder.PrependFloat32Slot(number, each.item(), 0)
        else:
            builder.PrependUOffsetTRelativeSlot(number, each, 0)
    return builder.EndObject()
