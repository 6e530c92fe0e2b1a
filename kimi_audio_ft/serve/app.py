"""OpenAI's interface over HTTP: ``/v1/audio/transcriptions``, ``/v1/models``, and ``/health``."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from contextlib import ExitStack
from pathlib import PurePath
from typing import Annotated, Any

from fastapi import FastAPI, Form, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as AnyHTTPException

from kimi_audio_ft.decoding.request import Answer
from kimi_audio_ft.manifest.hotwords import problem_of, typed_words
from kimi_audio_ft.runtime.devices import out_of_memory
from kimi_audio_ft.serve.batch_queue import BatchQueue, Decoder, Job, RequestRefused, Unavailable
from kimi_audio_ft.serve.formats import FORMATS, formatted
from kimi_audio_ft.serve.models import Model
from kimi_audio_ft.serve.service import RequestOptions, Service
from kimi_audio_ft.text import printable
from kimi_audio_ft.transcribe.confidence import text_of

log = logging.getLogger(__name__)

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
# Characters of names and terms that a request may give.
_MOST_WORDS = 2000
_HOTTEST = 2.0
# Recordings that are decoded and cut at a time: each is in memory as it was recorded.
_READERS = 4
# So many failed batches one after the other are no fault of a recording.
_MANY_FAILED = 3
# Seconds between two looks at whether a client is still there.
_LOOK_EVERY = 1.0
# Seconds for which a health check is reused: /health needs no key, and each check occupies a thread.
_LOOK_SERVES = 2.0
# The code of errors by what decodes, which may be back soon.
_UNAVAILABLE = "engine_unavailable"
_TRANSCRIPTIONS = "/v1/audio/transcriptions"
_GRANULARITIES = "timestamp_granularities[]"
_FIELDS = ("file", "model", "language", "prompt", "response_format", "temperature", "stream", _GRANULARITIES)


class Problem(HTTPException):
    """A request that gets no text. option: the field at fault, or None; code: OpenAI's word for it."""

    def __init__(self, status: int, message: str, option: str | None = None, code: str | None = None) -> None:
        again = status == 429 or code == _UNAVAILABLE
        super().__init__(status, message, {"Retry-After": "5"} if again else None)
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


class _Looks:
    """Looks at the decoder, one at a time, whoever asks."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder, self._began = decoder, 0.0
        self._look: asyncio.Task[str | None] | None = None

    async def trouble(self) -> str | None:
        old = self._look is not None and self._look.done() and time.monotonic() - self._began > _LOOK_SERVES
        if self._look is None or old:
            self._began = time.monotonic()
            self._look = asyncio.create_task(run_in_threadpool(self._decoder.trouble))
        return await asyncio.shield(self._look)  # others wait for it too


def make_app(service: Service, queue: BatchQueue, key: str) -> FastAPI:
    """The server's application. key: that requests must bring; empty: none."""
    app, config = FastAPI(title="kimi_audio_ft", docs_url=None, redoc_url=None), service.config
    app.add_middleware(Guard, key=key, most_bytes=config.max_megabytes * 1e6, most_requests=config.max_requests)
    # Exception: of what is left; the server then logs it.
    for kind in (RequestRefused, RequestValidationError, AnyHTTPException, OSError, MemoryError, Exception):
        app.add_exception_handler(kind, _as_response)
    readers, looks = asyncio.Semaphore(_READERS), _Looks(queue.decoder)

    @app.get("/health")
    async def health() -> JSONResponse:
        failed, trouble = queue.failed_in_a_row, await looks.trouble()
        told: dict[str, Any] = {"batches": queue.batches, "pieces": queue.decoded, "failed_in_a_row": failed}
        fine = failed < _MANY_FAILED and trouble is None
        if trouble is not None:
            told["trouble"] = trouble
        return JSONResponse({"status": "ok" if fine else "failing", **told}, 200 if fine else 503)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        named = [{"id": name, "object": "model", "created": 0, "owned_by": "local"} for name in service.models]
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
        granularities: Annotated[list[str] | None, Form(alias=_GRANULARITIES)] = None,
        language: Annotated[str, Form()] = "",
    ) -> Response:
        _require_known(await request.form())
        chosen = _model(service, model)
        options = _request_options(prompt, temperature)
        _require(response_format in FORMATS, "response_format", f"must be one of {', '.join(FORMATS)}")
        _require(not stream, "stream", "texts are not streamed here; leave it out")
        only_segments = set(granularities or ()) <= {"segment"}
        _require(only_segments, "timestamp_granularities", "words have no times here; use segment")
        name = printable(PurePath(file.filename or "file").name)
        with ExitStack() as held:
            async with readers:
                heard, jobs = await run_in_threadpool(service.jobs, file.file, name, chosen, options, held)
            texts = [text_of(answers) for answers in await _answers(request, queue, jobs)]
        setting = service.requests(chosen, options.temperature)[0].setting
        found = formatted(heard, texts, response_format, setting.text_temperature, language)
        return PlainTextResponse(found) if isinstance(found, str) else JSONResponse(found)

    return app


def _model(service: Service, name: str) -> Model:
    found = service.models.get(name)
    if found is None:
        known = ", ".join(map(printable, service.models))
        raise Problem(
            404, f"model {printable(name)!r}: there is no such model; there are {known}", "model", "model_not_found"
        )
    return found


def _require_known(fields: Iterable[str]) -> None:
    """Refuse fields that would be passed over without a word."""
    for name in fields:
        if name not in _FIELDS:
            there = ", ".join(_FIELDS)
            shown = printable(name)
            raise Problem(400, f"{shown}: there is no such field here; there are {there}", shown, "unknown_parameter")


def _request_options(prompt: str, temperature: float | None) -> RequestOptions:
    _require(len(prompt) <= _MOST_WORDS, "prompt", f"must have at most {_MOST_WORDS} characters")
    if temperature is not None:
        _require(0 <= temperature <= _HOTTEST, "temperature", f"must lie between 0 and {_HOTTEST:g}")
    words = typed_words(prompt)
    for word in words:
        if broken := problem_of(word):
            more = "It has hot words between commas, semicolons or line ends, and no text that came before"
            raise Problem(400, f"prompt: {word!r} {broken}. {more}", "prompt")
    return RequestOptions(temperature, words)


def _require(fine: bool, option: str, rule: str) -> None:
    if not fine:
        raise Problem(400, f"{option}: {rule}", option)


async def _answers(request: Request, queue: BatchQueue, jobs: Sequence[Job]) -> list[list[Answer]]:
    """The answers to all jobs; none is decoded any more once one has failed, or the client has gone."""
    queue.submit(jobs)
    waiting = [asyncio.wrap_future(job.answers) for job in jobs]
    try:
        while left := [one for one in waiting if not one.done()]:
            await asyncio.wait(left, timeout=_LOOK_EVERY, return_when=asyncio.FIRST_EXCEPTION)
            _require_decoded(waiting)
            if await request.is_disconnected():
                raise Problem(499, "the client has gone")
        _require_decoded(waiting)
        return [one.result() for one in waiting]
    finally:
        for one in waiting:
            one.cancel()


def _require_decoded(answers: Sequence[asyncio.Future[list[Answer]]]) -> None:
    """Raise a Problem if one of them has failed, or was cancelled, which the queue does at its end."""
    for one in (one for one in answers if one.done()):
        if one.cancelled():
            raise Problem(503, "the server is being stopped", code="stopping")
        error = one.exception()
        if isinstance(error, RequestRefused):
            raise error
        if isinstance(error, Unavailable):
            raise Problem(503, f"{error.rule}; try again later", code=_UNAVAILABLE)
        if error is not None and out_of_memory(error):
            raise _too_little_memory()
        if error is not None:
            said = f"the recording could not be decoded ({type(error).__name__}); see the server's log"
            raise Problem(500, said)


def _too_little_memory() -> Problem:
    return Problem(503, "the server has too little memory for this recording", code="out_of_memory")


async def _as_response(request: Request, error: Exception) -> JSONResponse:
    """The response to a request that failed, in the form of OpenAI's errors."""
    if isinstance(error, AnyHTTPException) and isinstance(error.__cause__, OSError | MemoryError):
        error = error.__cause__  # while the upload was read
    return _problem_of(error).response()


def _problem_of(error: Exception) -> Problem:
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        option = str(first["loc"][-1])
        said = "must be an uploaded file" if option == "file" else first["msg"]
        return Problem(400, f"{option}: {said}", option)
    if isinstance(error, RequestRefused):
        return Problem(error.status, str(error), error.option, error.code)
    if isinstance(error, AnyHTTPException):
        return error if isinstance(error, Problem) else Problem(error.status_code, str(error.detail))
    if out_of_memory(error):
        return _too_little_memory()
    if isinstance(error, OSError):
        log.error("a request could not be answered", exc_info=error)
        return Problem(503, f"the server cannot hold the recording ({error.strerror}); see its log", code="storage")
    return Problem(500, f"the request could not be answered ({type(error).__name__}); see the server's log")
