"""Requests that are refused before they are read, and how failures are told."""

from __future__ import annotations

import asyncio
import io
import tempfile
from threading import Event
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from kimi_audio_ft.base import Base
from kimi_audio_ft.config.serve import ServeConfig
from kimi_audio_ft.config.train import ModelConfig
from kimi_audio_ft.serve.app import Guard, make_app
from kimi_audio_ft.serve.batch_queue import BatchQueue
from kimi_audio_ft.serve.native import Native
from kimi_audio_ft.serve.service import Service

SCOPE = {"type": "http", "path": "/v1/audio/transcriptions", "headers": []}


async def no_body() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


def test_no_more_requests_than_may_be_at_work() -> None:
    """Further ones are told when to come again, and are let in once there is room."""

    async def run() -> list[Any]:
        entered, release = asyncio.Event(), asyncio.Event()

        async def works(scope: Any, receive: Any, send: Any) -> None:
            entered.set()
            await release.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        guard, said = Guard(works, "", 1e6, most_requests=1), list[Any]()

        async def send(message: Any) -> None:
            said.append(message)

        first = asyncio.create_task(guard(SCOPE, no_body, send))
        await entered.wait()
        await guard(SCOPE, no_body, send)
        release.set()
        await first
        await guard(SCOPE, no_body, send)
        return [message for message in said if message["type"] == "http.response.start"]

    refused, first, later = asyncio.run(run())
    assert (refused["status"], first["status"], later["status"]) == (429, 200, 200)
    assert (b"retry-after", b"5") in refused["headers"]


def test_a_body_is_counted_whatever_its_length_is_said_to_be() -> None:
    async def run() -> int:
        async def reads(scope: Any, receive: Any, send: Any) -> None:
            while True:
                await receive()

        async def endless() -> dict[str, Any]:
            return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

        from starlette.exceptions import HTTPException

        with pytest.raises(HTTPException) as caught:
            await Guard(reads, "", 5000, most_requests=1)(SCOPE, endless, None)  # type: ignore[arg-type]
        return caught.value.status_code

    assert asyncio.run(run()) == 413


@pytest.fixture(scope="module")
def queue() -> BatchQueue:
    """At its end: what is submitted is cancelled."""
    with BatchQueue(Native(Base(ModelConfig(dtype="float32"), "cached")), 1) as ended:
        pass
    return ended


def asked(queue: BatchQueue, method: str, path: str, **given: Any) -> httpx.Response:
    """The application's answer."""
    app = make_app(Service.of(ServeConfig(cut="windows")), queue, "")

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.request(method, path, **given)

    return asyncio.run(ask())


def transcription(queue: BatchQueue, **fields: str) -> httpx.Response:
    wav = io.BytesIO()
    soundfile.write(wav, np.full(8000, 0.1), 8000, format="WAV")
    files = {"file": ("a.wav", wav.getvalue())}
    return asked(queue, "POST", SCOPE["path"], files=files, data={"model": "base", **fields})


def test_unknown_fields_are_named(queue: BatchQueue) -> None:
    done = transcription(queue, chunking_strategy="auto")
    error = done.json()["error"]
    assert (done.status_code, error["param"]) == (400, "chunking_strategy")
    assert error["message"].startswith(
        "chunking_strategy: there is no such field here; there are file, model, language"
    )


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("陈凯, " + "x" * 65, "has 65 characters, and a word has at most 64. It has hot words between commas"),
        ("陈凯, --", "prompt: '--' has neither a letter nor a digit"),
        ("a\tb", "holds a character that cannot be printed"),
    ],
)
def test_words_are_those_of_a_list(queue: BatchQueue, prompt: str, said: str) -> None:
    done = transcription(queue, prompt=prompt)
    error = done.json()["error"]
    assert (done.status_code, error["param"]) == (400, "prompt") and said in error["message"]


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (OSError(28, "No space left on device"), 503, "cannot hold the recording (No space left on device)"),
        (MemoryError(), 503, "too little memory"),
        (
            RuntimeError("/a/secret/place"),
            500,
            "the request could not be answered (RuntimeError); see the server's log",
        ),
    ],
)
def test_failures_beside_the_model_are_openais_errors(
    queue: BatchQueue, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, said: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", fail)
    done = transcription(queue)
    told = done.json()["error"]
    assert (done.status_code, told["type"]) == (status, "server_error") and said in told["message"]


def test_a_server_that_is_being_stopped(queue: BatchQueue) -> None:
    done = transcription(queue, language="zh")
    assert (done.status_code, done.json()["error"]["code"]) == (503, "stopping")


def test_health_tells_of_failed_batches(queue: BatchQueue) -> None:
    done = asked(queue, "GET", "/health")
    assert (done.status_code, done.json()["status"]) == (200, "ok")
    queue.failed_in_a_row = 3
    done = asked(queue, "GET", "/health")
    assert (done.status_code, done.json()["status"]) == (503, "failing")
    queue.failed_in_a_row = 0


def test_many_who_ask_for_health_cost_one_look() -> None:
    class Slow(Native):
        looks, release = 0, Event()

        def trouble(self) -> None:
            self.looks += 1
            self.release.wait()

    service = Service.of(ServeConfig(cut="windows"))
    queue = BatchQueue(slow := Slow(service.base), 1)
    app, came = make_app(service, queue, ""), 0

    async def counted(*given: Any) -> None:
        nonlocal came
        came += 1
        await app(*given)

    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(counted), base_url="http://server") as client:
            asked = [asyncio.create_task(client.get("/health")) for _ in range(20)]
            while came < len(asked) or not slow.looks:
                await asyncio.sleep(0)
            slow.release.set()
            return await asyncio.gather(*asked)

    assert {done.status_code for done in asyncio.run(run())} == {200} and slow.looks == 1
