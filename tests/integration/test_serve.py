"""The server as a process of its own, asked by OpenAI's own client."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
import soundfile

from kimi_audio_ft.config.serve import KEY_VARIABLE
from kimi_audio_ft.files import read_jsonl
from kimi_audio_ft.store.usage import gate, records
from tests.integration.conftest import Forked, Workplace
from tests.pages import commands
from tests.ports import reserved_port

if TYPE_CHECKING:
    from openai import OpenAI

needed = ("fastapi", "uvicorn", "openai")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(find_spec(name) is None for name in needed), reason="the extra `serve`, or openai, is missing"
    ),
]
OPTIONS = ("decoding.max_new_tokens=8", "threads=1", "cut=windows", "max_seconds=5")
SERVE = "kimi_audio_ft.serve"
KEY = "a secret"


@dataclass(frozen=True)
class Server:
    forked: Forked
    client: OpenAI
    texts: dict[Path, dict[str, Any]]

    @property
    def recording(self) -> Path:
        return next(iter(self.texts))


@pytest.fixture(scope="module")
def server(place: Workplace, first: Path) -> Iterator[Server]:
    """The page's server with an adapter of the sweep, and lines of transcripts.jsonl by recording, made with it."""
    from openai import OpenAI

    adapter = json.loads((first / "0" / "scores.json").read_text(encoding="utf-8"))["signature"]
    (place.folder / "calls").mkdir()
    for line in read_jsonl(place.folder / "data" / "eval.tokens.jsonl"):
        recording = place.folder / "data" / line["conversation"][1]["content"]
        shutil.copyfile(recording, place.folder / "calls" / recording.name)
    given = ("audio=calls", "out=texts", f"adapter={adapter}", *OPTIONS, "progress=false")
    place.succeed("kimi_audio_ft.transcribe", *given)
    rows = read_jsonl(place.folder / "texts" / "transcripts.jsonl")
    (words,) = (words for words in commands("recogniser", "A server") if words[2] == SERVE)
    of_page = [word.replace("SIGNATURE", adapter) for word in words[3:] if word != "port=8000"]
    with reserved_port() as port:
        arguments = (*of_page, "max_megabytes=1", "max_minutes=0.5", f"port={port}", *OPTIONS)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(KEY_VARIABLE, KEY)
            forked = place.fork(SERVE, *arguments)
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=30)
        client.models.list()  # tries again until the server listens
        yield Server(forked, client.with_options(max_retries=0), {Path(row["audio"]): row for row in rows})
        if forked.process.is_alive():
            forked.process.terminate()
            forked.wait()


def ask(server: Server, recording: Path, **options: Any) -> Any:
    with recording.open("rb") as file:
        return server.client.audio.transcriptions.create(file=file, **{"model": "meetings", **options})


def test_simultaneous_requests_get_the_texts_of_transcribe(server: Server) -> None:
    with ThreadPoolExecutor(len(server.texts)) as clients:
        found = dict(zip(server.texts, clients.map(lambda path: ask(server, path).text, server.texts), strict=True))
    assert found == {path: row["text"] for path, row in server.texts.items()} and any(found.values())
    assert [model.id for model in server.client.models.list()] == ["base", "meetings"]


def test_times_and_subtitles(server: Server) -> None:
    recording, row = max(server.texts.items(), key=lambda item: item[1]["seconds"])
    asked = {"response_format": "verbose_json", "timestamp_granularities": ["segment"], "language": "zh"}
    told = ask(server, recording, **asked)
    assert told.text == row["text"] and told.duration == row["seconds"] and told.language == "zh"
    times = [(one.start, one.end, one.text, one.avg_logprob) for one in told.segments]
    wanted = [(one["start"], one["end"], one["text"], one["avg_logprob"]) for one in row["segments"]]
    assert times == [(*facts, pytest.approx(sure, abs=1e-3)) for *facts, sure in wanted]
    assert ask(server, recording, response_format="text").strip() == row["text"]
    assert ask(server, recording, response_format="srt").startswith("1\n00:00:00,000 --> ")
    assert ask(server, recording, response_format="vtt").startswith("WEBVTT\n")


def test_the_base_alone_and_sampling(server: Server) -> None:
    same = [ask(server, server.recording, temperature=0.9).text for _ in range(2)]
    assert same[0] == same[1], "samples depend on the seed and what is heard"
    assert isinstance(ask(server, server.recording, model="base", prompt="陈凯, 半导体").text, str)


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ({"model": "whisper-1"}, 404, "there is no such model; there are base, meetings"),
        ({"response_format": "xml"}, 400, "response_format: must be one of json, text, srt, vtt, verbose_json"),
        ({"temperature": 9.0}, 400, "temperature: must lie between 0 and 2"),
        ({"timestamp_granularities": ["word"]}, 400, "words have no times here"),
        ({"stream": True}, 400, "stream: "),
        ({"chunking_strategy": "auto"}, 400, "chunking_strategy: there is no such field here"),
        ({"prompt": "x" * 2001}, 400, "prompt: must have at most 2000 characters"),
        ({"file": ("../../etc/passwd", b"no audio")}, 400, "passwd: not a readable recording"),
        ({"file": ("long.wav", None)}, 400, "lasts longer than the 0.5 minutes that the server takes"),
        ({"file": ("big.wav", bytes(1_100_000))}, 413, "the server takes at most 1 MB"),
    ],
)
def test_what_cannot_be_answered(
    server: Server, tmp_path: Path, options: dict[str, Any], status: int, said: str
) -> None:
    from openai import APIStatusError

    if options.get("file", ("", b""))[1] is None:
        soundfile.write(tmp_path / "long.wav", np.zeros(31 * 8000), 8000)
        options = {"file": ("long.wav", (tmp_path / "long.wav").read_bytes())}
    given = {"file": server.recording, "model": "meetings", **options}
    with pytest.raises(APIStatusError, match=re.escape(said)) as caught:
        server.client.audio.transcriptions.create(**given)
    assert caught.value.status_code == status
    assert "/" not in str(caught.value.body["message"]).replace("https://", "")


def test_files_are_uploaded_and_never_named(server: Server) -> None:
    """A field in place of a file is no path."""
    address, header = f"{server.client.base_url}audio/transcriptions", {"Authorization": f"Bearer {KEY}"}
    done = httpx.post(address, data={"file": str(server.recording), "model": "meetings"}, headers=header)
    assert done.status_code == 400 and done.json()["error"]["param"] == "file"
    assert httpx.post(address, data={"model": "meetings"}).status_code == 401


def test_pruning_leaves_its_adapter(server: Server, place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(place.store))
    with gate():
        (used,) = (record for record in records() if record.is_running())
    assert [kind for kind, _ in used.products] == ["adapter"] and used.sweep.name.startswith("server 127.0.0.1:")


def test_sigterm_ends_it(server: Server, place: Workplace) -> None:
    before = set(place.store.rglob("*"))
    ask(server, server.recording, model="base")
    assert set(place.store.rglob("*")) == before, "nothing of a request is kept"
    assert server.forked.process.pid is not None
    os.kill(server.forked.process.pid, signal.SIGTERM)
    done = server.forked.wait()
    assert done.code == 0, done.err
    assert "models: base, meetings" in done.out
