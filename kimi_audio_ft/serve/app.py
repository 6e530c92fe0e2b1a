"""OpenAI's interface over HTTP: ``/v1/audio/transcriptions``, ``/v1/models``, and ``/health``."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from concurrent.futures import CancelledError
from pathlib import PurePath
from typing import Annotated, Any

from fastapi import FastAPI, Form, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as AnyHTTPException

from kimi_audio_ft.decoding.request import Answer
from kimi_audio_ft.runtime.devices import out_of_memory
from kimi_audio_ft.serve.engine import Engine, Job
from kimi_audio_ft.serve.formats import FORMATS, formatted
from kimi_audio_ft.serve.recogniser import Model, Recogniser, Refused, Wish
from kimi_audio_ft.text import printable
from kimi_audio_ft.transcribe.confidence import text_of

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
# Characters of names and terms that a request may give.
_MOST_WORDS = 2000
_HOTTEST = 2.0
# Seconds between two looks at whether a client is still there.
_LOOK_EVERY = 1.0
_TRANSCRIPTIONS = "/v1/audio/transcriptions"


class Problem(HTTPException):
    """A request that gets no text. option: the field at fault, or None; code: OpenAI's word for it."""

    def __init__(self, status: int, message: str, option: str | None = None, code: str | None = None) -> None:
        super().__init__(status, message, {"Retry-After": "5"} if status == 429 else None)
        self.option, self.code = option, code

    def response(self) -> JSONResponse:
        kind = "invalid_request_error" if self.status_code < 500 else "server_error"
        error = {"message": self.detail, "type": kind, "param": self.option, "code": self.code}
        return JSONResponse({"error": error}, self.status_code, self.headers)


class Guard:
    """ASGI middleware: refuses requests without the key, beyond the size, or while too many are at work.

    It counts the bytes that come: nobody has to believe what a request says of its length.

    Args:
        key: that requests bring as ``Authorization: Bearer KEY``; empty: none is asked for.
    """

    def __init__(self, app: Any, key: str, most_bytes: float, most_requests: int) -> None:
        self._app, self._key = app, key.encode()
        self._most_bytes, self._most_requests, self._at_work = most_bytes, most_requests, 0

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        problem = self._problem(scope)
        if problem is not None:
            await problem.response()(scope, receive, send)
            return
        counts = scope["path"] == _TRANSCRIPTIONS
        self._at_work += counts
        try:
            await self._app(scope, self._counted(receive), send)
        finally:
            self._at_work -= counts

    def _problem(self, scope: _Message) -> Problem | None:
        headers = dict(scope["headers"])
        given = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        if self._key and scope["path"] != "/health" and not hmac.compare_digest(given, self._key):
            return Problem(401, "the API key is missing or wrong", code="invalid_api_key")
        if scope["path"] != _TRANSCRIPTIONS:
            return None
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._most_bytes:
            return self._too_large()
        if self._at_work >= self._most_requests:
            return Problem(429, f"{self._at_work} requests are at work (max_requests); try again", code="busy")
        return None

    def _counted(self, receive: _Receive) -> _Receive:
        taken = 0

        async def counted() -> _Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._most_bytes:
                raise self._too_large()
            return message

        return counted

    def _too_large(self) -> Problem:
        size = f"the server takes at most {self._most_bytes / 1e6:g} MB (max_megabytes)"
        return Problem(413, f"the request is too large: {size}", "file", "file_too_large")


def make_app(recogniser: Recogniser, engine: Engine, key: str) -> FastAPI:
    """The server's application. key: that requests must bring; empty: none."""
    app, config = FastAPI(title="kimi_audio_ft", docs_url=None, redoc_url=None), recogniser.config
    app.add_middleware(Guard, key=key, most_bytes=config.max_megabytes * 1e6, most_requests=config.max_requests)
    for kind in (Refused, RequestValidationError, AnyHTTPException):
        app.add_exception_handler(kind, _as_problem)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "batches": engine.batches, "pieces": engine.decoded}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        named = [{"id": name, "object": "model", "created": 0, "owned_by": "local"} for name in recogniser.models]
        return {"object": "list", "data": named}

    @app.post(_TRANSCRIPTIONS)
    async def transcriptions(
        request: Request,
        file: UploadFile,
        model: Annotated[str, Form()],
        response_format: Annotated[str, Form()] = FORMATS[0],
        prompt: Annotated[str, Form()] = "",
        temperature: Annotated[float | None, Form()] = None,
        stream: Annotated[bool, Form()] = False,
        granularities: Annotated[list[str] | None, Form(alias="timestamp_granularities[]")] = None,
    ) -> Response:
        chosen = _model(recogniser, model)
        wish = _wish(prompt, temperature)
        _require(response_format in FORMATS, "response_format", f"must be one of {', '.join(FORMATS)}")
        _require(not stream, "stream", "texts are not streamed here; leave it out")
        only_segments = set(granularities or ()) <= {"segment"}
        _require(only_segments, "timestamp_granularities", "words have no times here; use segment")
        name = printable(PurePath(file.filename or "file").name)
        heard, jobs = await run_in_threadpool(recogniser.jobs, file.file, name, chosen, wish)
        texts = [text_of(answers) for answers in await _answers(request, engine, jobs)]
        setting = recogniser.requests(wish.temperature)[0].setting
        found = formatted(heard, texts, response_format, setting.text_temperature)
        return PlainTextResponse(found) if isinstance(found, str) else JSONResponse(found)

    return app


def _model(recogniser: Recogniser, name: str) -> Model:
    found = recogniser.models.get(name)
    if found is None:
        known = ", ".join(recogniser.models)
        raise Problem(
            404, f"model {printable(name)!r}: there is no such model; there are {known}", "model", "model_not_found"
        )
    return found


def _wish(prompt: str, temperature: float | None) -> Wish:
    _require(len(prompt) <= _MOST_WORDS, "prompt", f"must have at most {_MOST_WORDS} characters")
    if temperature is not None:
        _require(0 <= temperature <= _HOTTEST, "temperature", f"must lie between 0 and {_HOTTEST:g}")
    return Wish(temperature, prompt.strip())


def _require(fine: bool, option: str, rule: str) -> None:
    if not fine:
        raise Problem(400, f"{option}: {rule}", option)


async def _answers(request: Request, engine: Engine, jobs: Sequence[Job]) -> list[list[Answer]]:
    """The answers to all jobs; none is decoded any more once one has failed, or the client has gone."""
    engine.submit(jobs)
    waiting = [asyncio.wrap_future(job.answers) for job in jobs]
    try:
        while left := [one for one in waiting if not one.done()]:
            await asyncio.wait(left, timeout=_LOOK_EVERY, return_when=asyncio.FIRST_EXCEPTION)
            if any(one.done() and one.exception() for one in waiting) or await request.is_disconnected():
                break
        return [one.result() for one in waiting]
    except (asyncio.InvalidStateError, asyncio.CancelledError, CancelledError):
        raise Problem(499, "the client has gone, or the server is being stopped") from None
    except Exception as error:
        if out_of_memory(error):
            raise Problem(503, "the server has too little memory for this recording", code="out_of_memory") from None
        raise Problem(
            500, f"the recording could not be decoded ({type(error).__name__}); see the server's log"
        ) from None
    finally:
        for one in waiting:
            one.cancel()


async def _as_problem(request: Request, error: Exception) -> JSONResponse:
    """The response to a request that failed, in the form of OpenAI's errors."""
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        option = str(first["loc"][-1])
        said = "must be an uploaded file" if option == "file" else first["msg"]
        return Problem(400, f"{option}: {said}", option).response()
    if isinstance(error, Refused):
        return Problem(400, str(error), error.option).response()
    assert isinstance(error, AnyHTTPException)
    return (error if isinstance(error, Problem) else Problem(error.status_code, str(error.detail))).response()
