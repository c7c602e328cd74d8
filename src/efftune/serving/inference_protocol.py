"""The Open Inference Protocol, version 2, with its extension for binary tensors.

Source: https://github.com/kserve/open-inference-protocol and, for the extension,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from efftune.data.images import Pixels
from efftune.model.prediction import Prediction
from efftune.serving import receiving
from efftune.serving.answering import Predicting, Unreadable
from efftune.serving.guard import route
from efftune.serving.service import Service
from efftune.serving.state import State
from efftune.system import machine

_HEADER = "inference-header-content-length"  # bytes of JSON before the binary tensors
_OUTPUTS = {
    "probabilities": "FP32",
    "label": "BYTES",
    "confidence": "FP32",
    "unsure": "BOOL",
    "unlike": "BOOL",
}
_TYPES: dict[Any, np.dtype[Any]] = {"UINT8": np.dtype("u1"), "FP32": np.dtype("<f4")}


class _Invalid(Exception):
    """A request is not as the protocol says."""


def routes(state: State) -> list[Route]:
    """What answers the paths of the protocol."""
    answers, model = _Answers(state), "/v2/models/{name}"
    return [
        route("/v2", answers.server),
        route("/v2/health/live", answers.live),
        route("/v2/health/ready", answers.ready),
        *(
            each
            for place in (model, f"{model}/versions/1")
            for each in (
                route(place, answers.model),
                route(f"{place}/ready", answers.model_ready),
                route(f"{place}/infer", answers.infer, post=True),
            )
        ),
    ]


class _Answers:
    """The functions that answer."""

    def __init__(self, state: State):
        self._state = state

    async def server(self, _request: Request) -> Response:
        """What the server is."""
        return JSONResponse(
            {
                "name": "efftune",
                "version": machine.versions()["efftune"],
                "extensions": ["binary_tensor_data"],
            }
        )

    async def live(self, _request: Request) -> Response:
        """That it is alive."""
        return JSONResponse({"live": True})

    async def ready(self, _request: Request) -> Response:
        """Whether it answers pictures."""
        ready = self._state.is_ready
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def model_ready(self, request: Request) -> Response:
        """Whether a model answers pictures."""
        service = self._named(request)
        ready = self._state.is_ready
        return JSONResponse({"name": service.name, "ready": ready}, 200 if ready else 503)

    async def model(self, request: Request) -> Response:
        """What a model takes and gives."""
        service = self._named(request)
        size, classes = service.classifier.image_size, len(service.classifier.class_names)
        shapes = {"probabilities": [-1, classes]}
        return JSONResponse(
            {
                "name": service.name,
                "versions": ["1"],
                "platform": "efftune",
                "inputs": [
                    {"name": "image", "datatype": "BYTES", "shape": [-1]},
                    {"name": "pixels", "datatype": "UINT8", "shape": [-1, size, size, 3]},
                ],
                "outputs": [
                    {"name": name, "datatype": kind, "shape": shapes.get(name, [-1])}
                    for name, kind in _OUTPUTS.items()
                ],
            }
        )

    async def infer(self, request: Request) -> Response:
        """Predictions for the tensors of a request."""
        service, settings = self._named(request), self._state.settings
        self._state.answering.require_room()
        content = await receiving.body(request, settings)
        gone, header = receiving.is_gone(request), request.headers.get(_HEADER)
        read = partial(_asked, header=header, most=settings.most_pictures)
        try:
            # Large ones take as long to read as pictures to predict.
            ((asked, items),) = await self._state.answering.each(read, [content], gone)
            top, metrics = len(service.classifier.class_names), self._state.metrics
            work = Predicting(service.classifier, top, settings.most_pixels, metrics)
            found = await self._state.answering.each(work, items, gone)
            for number, each in enumerate(found):
                if isinstance(each, Unreadable):
                    raise _Invalid(f"picture {number} cannot be used: {each.reason}")
            rows = [each for each in found if isinstance(each, Prediction)]
            return _response(service, asked, rows)
        except _Invalid as error:
            raise HTTPException(400, f"{error}.") from None

    def _named(self, request: Request) -> Service:
        """The model that a request names."""
        service, name = self._state.ready, request.path_params["name"]
        if name != service.name:
            raise HTTPException(404, f"There is no model {name!r}; this is {service.name!r}.")
        return service


@dataclass(frozen=True)
class _Asked:
    """What a request wants back.

    Attributes:
        id: of the request; empty if it has none.
        outputs: their names, and whether each is wanted as a binary tensor.
    """

    id: str
    outputs: tuple[tuple[str, bool], ...]


def _asked(content: bytes, *, header: str | None, most: int) -> tuple[_Asked, list[bytes | Pixels]]:
    """What a request wants, and its pictures: files, or pixels.

    Raises:
        _Invalid: it is not as the protocol says.
    """
    end = len(content)
    if header is not None:
        if not (re.fullmatch("[0-9]{1,10}", header) and int(header) <= end):
            raise _Invalid(f"{_HEADER} is no number of bytes of the body")
        end = int(header)
    try:
        message = json.loads(content[:end])
    except (ValueError, RecursionError):
        raise _Invalid("the request is no JSON") from None
    message = _an_object(message, "the request")
    parameters = _an_object(message.get("parameters", {}), "parameters")
    tensors = _a_list(message.get("inputs"), "inputs")
    if len(tensors) != 1:
        raise _Invalid("inputs must be one tensor: image (BYTES) or pixels (UINT8 or FP32)")
    tensor = _an_object(tensors[0], "a tensor of inputs")
    asked = _Asked(
        _a_text(message.get("id", ""), "id"),
        tuple(_outputs(message.get("outputs"), binary=bool(parameters.get("binary_data_output")))),
    )
    return asked, _pictures(tensor, content[end:], most)


def _outputs(given: Any, *, binary: bool) -> Iterator[tuple[str, bool]]:
    """Names of outputs, and whether each is wanted as a binary tensor."""
    if not given:
        yield from ((name, binary) for name in _OUTPUTS)
        return
    if len(_a_list(given, "outputs")) > len(_OUTPUTS):
        raise _Invalid(f"outputs are some of {', '.join(_OUTPUTS)}, each once")
    for each in given:
        output = _an_object(each, "a tensor of outputs")
        name = _a_text(output.get("name"), "the name of an output")
        if name not in _OUTPUTS:
            raise _Invalid(f"there is no output {name!r}, but {', '.join(_OUTPUTS)}")
        parameters = _an_object(output.get("parameters", {}), "parameters of an output")
        yield name, bool(parameters.get("binary_data", binary))


def _pictures(tensor: dict[str, Any], binary: bytes, most: int) -> list[bytes | Pixels]:
    """The pictures of an input tensor, of which there may be as many."""
    kind, shape = tensor.get("datatype"), _shape(tensor, most)
    parameters = _an_object(tensor.get("parameters", {}), "parameters of an input")
    size = parameters.get("binary_data_size")
    if size is not None and (type(size) is not int or size != len(binary)):
        raise _Invalid(f"binary_data_size is not the {len(binary):,} bytes after the JSON")
    if size is None and binary:
        raise _Invalid("there are bytes after the JSON that no input has as binary_data_size")
    if kind == "BYTES":
        if any(side != 1 for side in shape[1:]):
            raise _Invalid("image has shape [N], a file for each picture")
        given = None if size is not None else _a_list(tensor.get("data"), "data")
        return list(_files(given, binary, shape[0]))
    if not isinstance(kind, str) or kind not in _TYPES or len(shape) != 4 or shape[3] != 3:
        raise _Invalid("pixels are UINT8 or FP32 of shape [N, height, width, 3]")
    given = None if size is not None else _a_list(tensor.get("data"), "data")
    return list(_pixels(given, binary, _TYPES[kind], shape))


def _shape(tensor: dict[str, Any], most: int) -> list[int]:
    shape = _a_list(tensor.get("shape"), "shape")
    if not all(type(side) is int and 0 < side < 2**31 for side in shape):
        raise _Invalid("shape must be whole numbers above 0")
    if not shape or shape[0] > most:
        raise _Invalid(f"a request has 1 to {most} pictures")
    return shape


def _pixels(
    given: list[Any] | None, binary: bytes, dtype: np.dtype[Any], shape: list[int]
) -> Pixels:
    """The pixels of a tensor: numbers in JSON, or binary ones of a type; uint8 of a shape."""
    count = math.prod(shape)
    try:
        values: Any = np.array(given, np.float64).ravel() if given is not None else None
    except (ValueError, TypeError, OverflowError):
        raise _Invalid("data of pixels must be numbers") from None
    if values is None and len(binary) == count * dtype.itemsize:
        values = np.frombuffer(binary, dtype)
    if values is None or len(values) != count:
        raise _Invalid(f"pixels of this shape are {count:,} numbers")
    if values.dtype == np.uint8:
        return np.asarray(values.reshape(shape))
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 255):
        raise _Invalid("pixels are 0 to 255")
    return np.asarray(np.rint(values), np.uint8).reshape(shape)


def _files(given: list[Any] | None, binary: bytes, count: int) -> Iterator[bytes]:
    """The files of a tensor of bytes: base64 in JSON, or each after its length, of 4 bytes."""
    if given is not None:
        if len(given) != count:
            raise _Invalid(f"image of this shape has {count:,} files in base64 as its data")
        for each in given:
            try:
                yield base64.b64decode(_a_text(each, "a file"), validate=True)
            except (ValueError, binascii.Error):
                raise _Invalid("data of image must be files in base64") from None
        return
    place = 0
    for _ in range(count):
        length = int.from_bytes(binary[place : place + 4], "little")
        place += 4
        if place + length > len(binary):
            raise _Invalid("a file is longer than the tensor")
        yield binary[place : place + length]
        place += length
    if place != len(binary):
        raise _Invalid("the tensor is longer than its files")


def _response(service: Service, asked: _Asked, found: Sequence[Prediction]) -> Response:
    """The tensors that were asked for."""
    classes, count = len(service.classifier.class_names), len(found)
    rows = np.zeros((count, classes), "<f4")
    for row, each in zip(rows, found, strict=True):
        row[list(each.top_indices)] = [value for _, value in each.top]
    values: dict[str, Any] = {
        "probabilities": rows,
        "label": [each.label for each in found],
        "confidence": np.array([each.confidence for each in found], "<f4"),
        "unsure": np.array([each.unsure for each in found], np.bool_),
        "unlike": np.array([bool(each.unlike) for each in found], np.bool_),
    }
    described, parts = list[dict[str, Any]](), list[bytes]()
    for name, binary in asked.outputs:
        value = values[name]
        shape = [count, classes] if name == "probabilities" else [count]
        output: dict[str, Any] = {"name": name, "datatype": _OUTPUTS[name], "shape": shape}
        if binary:
            part = _encoded(value)
            parts.append(part)
            output["parameters"] = {"binary_data_size": len(part)}
        else:
            output["data"] = value if name == "label" else value.ravel().tolist()
        described.append(output)
    message: dict[str, Any] = {"model_name": service.name, "model_version": "1"}
    message |= ({"id": asked.id} if asked.id else {}) | {"outputs": described}
    if not parts:
        return JSONResponse(message)
    text = json.dumps(message).encode()
    return Response(
        b"".join((text, *parts)),
        media_type="application/octet-stream",
        headers={_HEADER: str(len(text))},
    )


def _encoded(value: Any) -> bytes:
    if not isinstance(value, list):
        return bytes(value.tobytes())
    texts = [each.encode() for each in value]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def _an_object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Invalid(f"{what} must be an object")
    return value


def _a_list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise _Invalid(f"{what} must be a list")
    return value


def _a_text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise _Invalid(f"{what} must be a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Invalid(f"{what} is no text in Unicode") from None
    return value
