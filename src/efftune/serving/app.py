"""What the server answers: pictures, explanations, and what it is."""

import asyncio
import io
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from efftune.errors import DataError, DiskFull, UsageError
from efftune.evaluation.predictions import write_csv
from efftune.model.prediction import Prediction
from efftune.serving import inference_protocol, receiving
from efftune.serving.answering import BUSY, Busy, Explaining, Gone, Predicting, Unreadable
from efftune.serving.feedback import Correction, Keeping
from efftune.serving.guard import Application, Guard, log_failure, route
from efftune.serving.nearest import Finding
from efftune.serving.receiving import Received
from efftune.serving.state import State
from efftune.system import machine

_PAGE = package_files("efftune.serving") / "page"
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".json": "application/json",
}
_MOST_NEAREST = 12  # training pictures that are shown
_GONE = 499  # as other servers count clients that have left; nobody reads this answer


def application(state: State) -> Application:
    """The application, as ASGI knows it."""
    routes = _Routes(state)
    found = Starlette(
        routes=routes.all(),
        exception_handlers={
            HTTPException: _refused,
            Busy: _busy,
            Gone: _gone,
            DataError: _unusable,
            Exception: _failed,
        },
    )
    found.router.redirect_slashes = False
    return Guard(found, state)


class _Routes:
    """The functions that answer."""

    def __init__(self, state: State):
        self._state = state

    def all(self) -> list[Route]:
        """What answers each path."""
        return [
            route("/predict", self.predict, post=True),
            route("/explain", self.explain, post=True),
            route("/feedback", self.feedback, post=True),
            route("/nearest", self.nearest, post=True),
            route("/info", self.info),
            route("/healthz", self.alive),
            route("/readyz", self.is_ready),
            route("/metrics", self.metrics),
            route("/openapi.json", self.openapi),
            route("/docs", _page_file("docs.html")),
            route("/", _page_file("index.html")),
            route("/page/{name}", _page_part),
            *inference_protocol.routes(self._state),
        ]

    async def predict(self, request: Request) -> Response:
        """The classes of one picture, or of several."""
        began, service, settings = time.perf_counter(), self._state.ready, self._state.settings
        top = _top(request, len(service.classifier.class_names))
        self._state.answering.require_room()
        received = await receiving.pictures(request, settings)
        work = Predicting(service.classifier, top, settings.most_pixels, self._state.metrics)
        contents = [each.content for each in received]
        found = await self._state.answering.each(work, contents, receiving.is_gone(request))
        about = {
            "request_id": request.scope["request_id"],
            "ms": round(1000 * (time.perf_counter() - began), 3),
            "model": service.checksum,
        }
        return _answers(request, received, found, about)

    async def explain(self, request: Request) -> Response:
        """A heat map of one picture, as PNG."""
        service, settings = self._state.ready, self._state.settings
        if service.explainer is None:
            raise HTTPException(404, "This classifier is an exported file, which cannot explain.")
        label = _only(request, "label").get("label")
        if label is not None and label not in service.classifier.class_names:
            raise HTTPException(400, f"There is no class {label!r}; /info lists them.")
        self._state.answering.require_room()
        content = await receiving.picture(request, settings)
        work = Explaining(service.explainer, label, settings.most_pixels, self._state.metrics)
        gone = receiving.is_gone(request)
        try:
            (found,) = await self._state.answering.each(work, [content], gone)
        except DataError:  # it is read when it is first needed
            text = "The run is not as it was, so it cannot explain. Its owner can restore it."
            raise HTTPException(503, text) from None
        if isinstance(found, Unreadable):
            return _unreadable(request, found)
        about = {"x-label": quote(found.label), "x-confidence": f"{found.confidence:.6f}"}
        return Response(found.png, media_type="image/png", headers=about)

    async def feedback(self, request: Request) -> Response:
        """Keep a picture that somebody has corrected."""
        service, settings = self._state.ready, self._state.settings
        if self._state.feedback is None:
            raise HTTPException(404, "This server keeps no corrections; its owner can --feedback.")
        given = _only(request, "label", "predicted", "name")
        for key in ("label", "predicted"):
            if given.get(key) not in service.classifier.class_names:
                text = f"{key} must be a class; /info lists them. Received: {given.get(key)!r}."
                raise HTTPException(400, text)
        correction = Correction(given["label"], given["predicted"], given.get("name", ""))
        self._state.answering.require_room()
        content = await receiving.picture(request, settings)
        about = (service.classifier, settings.most_pixels, self._state.metrics)
        work = Keeping(self._state.feedback, correction, *about)
        try:
            (kept,) = await self._state.answering.each(work, [content])
        except (DiskFull, OSError, UsageError) as error:
            is_full = isinstance(error, DiskFull)
            reason = "There is no room" if is_full else "Its folder cannot be written to"
            raise HTTPException(507, f"{reason}: the correction is not kept.") from None
        except DataError:
            text = "labels.csv is damaged, so the correction is not kept. Its owner can restore it."
            raise HTTPException(409, text) from None
        if isinstance(kept, Unreadable):
            return _unreadable(request, kept)
        answer = {"kept": kept, "label": correction.label}
        return JSONResponse({**answer, "request_id": request.scope["request_id"]}, 201)

    async def nearest(self, request: Request) -> Response:
        """The training pictures that are nearest to one picture."""
        training, settings = self._state.training, self._state.settings
        if training is None:
            raise HTTPException(404, "This server shows no training pictures, or not yet.")
        text = _only(request, "count").get("count", "6")
        if text not in map(str, range(1, _MOST_NEAREST + 1)):
            raise HTTPException(400, f"count must be 1 to {_MOST_NEAREST}. Received: {text!r}.")
        self._state.answering.require_room()
        content = await receiving.picture(request, settings)
        work = Finding(training, int(text), settings.most_pixels, self._state.metrics)
        gone = receiving.is_gone(request)
        (found,) = await self._state.answering.each(work, [content], gone)
        if isinstance(found, Unreadable):
            return _unreadable(request, found)
        answer = {"nearest": [each.to_dict() for each in found]}
        return JSONResponse({**answer, "request_id": request.scope["request_id"]})

    async def info(self, request: Request) -> Response:
        """What is served."""
        _only(request)
        return JSONResponse({**self._state.ready.info, **self._state.offered})

    async def alive(self, _request: Request) -> Response:
        """That the server is alive."""
        return JSONResponse({"alive": True})

    async def is_ready(self, _request: Request) -> Response:
        """Whether the server answers pictures."""
        ready = self._state.is_ready
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def metrics(self, _request: Request) -> Response:
        """What was counted."""
        kind = "text/plain; version=0.0.4; charset=utf-8"
        page = await asyncio.to_thread(self._state.metrics.page)  # of many classes, it takes long
        return Response(page, headers={"content-type": kind})

    async def openapi(self, _request: Request) -> Response:
        """The description of this interface."""
        described = json.loads((_PAGE / "openapi.json").read_text(encoding="utf-8"))
        described["info"]["version"] = machine.versions()["efftune"]
        return JSONResponse(described)


def _page_file(name: str) -> Any:
    async def page(_request: Request) -> Response:
        return _file(name)

    return page


async def _page_part(request: Request) -> Response:
    return _file(request.path_params["name"])


def _file(name: str) -> Response:
    """A file of the page."""
    names = {each.name for each in _PAGE.iterdir() if each.is_file()}
    if name not in names:
        raise HTTPException(404, "There is nothing here.")
    kind = _TYPES.get(Path(name).suffix, "application/octet-stream")
    headers = {"cache-control": "no-cache"}
    return Response((_PAGE / name).read_bytes(), media_type=kind, headers=headers)


def _only(request: Request, *known: str) -> dict[str, str]:
    """The parameters of a request's query.

    Raises:
        HTTPException: there is another one, or one twice.
    """
    given = request.query_params.multi_items()
    for name, _ in given:
        if name not in known:
            offered = f"Known: {', '.join(known)}." if known else "There are none."
            raise HTTPException(400, f"Unknown parameter {name!r}. {offered}")
    if len(given) > len(dict(given)):
        raise HTTPException(400, "A parameter is given twice.")
    return dict(given)


def _top(request: Request, classes: int) -> int:
    text = _only(request, "top").get("top", "1")
    if not (text.isascii() and text.isdigit() and 1 <= len(text) <= 6 and int(text)):
        raise HTTPException(400, f"top must be 1 or more. Received: {text!r}.")
    return min(int(text), classes)


def _answers(
    request: Request,
    received: Sequence[Received],
    found: Sequence[Prediction | Unreadable],
    about: dict[str, Any],
) -> Response:
    """What became of the pictures of a request, and what is said about it."""
    is_several = receiving.is_multipart(request)
    if not is_several and isinstance(found[0], Unreadable):
        return _unreadable(request, found[0])
    if _wants_csv(request):
        return _table(received, found)
    answers = [
        {**each.to_dict(), "path": given.name}
        if isinstance(each, Prediction)
        else {"path": given.name, "error": each.reason}
        for given, each in zip(received, found, strict=True)
    ]
    return JSONResponse({**({"predictions": answers} if is_several else answers[0]), **about})


def _table(received: Sequence[Received], found: Sequence[Prediction | Unreadable]) -> Response:
    """The answers as CSV, which has no place for pictures without one: a header counts them."""
    named = [
        replace(each, path=Path(given.name) if given.name else None)
        for given, each in zip(received, found, strict=True)
        if isinstance(each, Prediction)
    ]
    table = io.StringIO()
    write_csv(table, named)
    headers = {"x-unreadable": str(len(found) - len(named))}
    return Response(table.getvalue(), media_type="text/csv", headers=headers)


def _wants_csv(request: Request) -> bool:
    accepted = request.headers.get("accept", "")
    return any(each.partition(";")[0].strip() == "text/csv" for each in accepted.split(","))


def _unreadable(request: Request, found: Unreadable) -> Response:
    return _error(request, 422, f"The picture cannot be used: {found.reason}.", reason=found.reason)


def _error(request: Request, status: int, text: str, **more: str) -> JSONResponse:
    content = {"error": text, **more, "request_id": request.scope["request_id"]}
    return JSONResponse(content, status)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    response = _error(request, error.status_code, error.detail)
    response.headers.update(error.headers or {})
    return response


async def _busy(request: Request, _: Exception) -> Response:
    response = _error(request, 503, BUSY)
    response.headers["retry-after"] = "1"
    return response


async def _gone(request: Request, _: Exception) -> Response:
    return _error(request, _GONE, "The client has left.")


async def _unusable(request: Request, error: Exception) -> Response:
    """The classifier, which comes from files, does not answer; its owner has to know why."""
    request_id = request.scope["request_id"]
    log_failure(request_id, error)
    text = f"The classifier does not answer; the server's log has more under {request_id}."
    response = _error(request, 503, text)
    response.headers["retry-after"] = "1"
    return response


async def _failed(request: Request, _: Exception) -> Response:
    """An error that the guard logs."""
    request_id = request.scope["request_id"]
    return _error(request, 500, f"The server has failed; its log has more under {request_id}.")
