"""Requests that are refused before they are read."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from kimi_audio_ft.serve.app import Guard

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
