"""The page's server on a real vLLM, where KIMI_AUDIO_FT_VLLM_PYTHON names the Python of an environment that has it.

experiments/vllm.md has a run, with the demo's adapters.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from kimi_audio_ft.files import read_jsonl
from tests.integration.conftest import Workplace
from tests.integration.test_serve import SERVE
from tests.pages import commands
from tests.ports import reserved_port

if TYPE_CHECKING:
    from openai import OpenAI

VARIABLE = "KIMI_AUDIO_FT_VLLM_PYTHON"
PYTHON = os.environ.get(VARIABLE)
needed = ("fastapi", "uvicorn", "openai")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason=f"{VARIABLE} names no Python of an environment with vLLM"),
    pytest.mark.skipif(
        any(find_spec(name) is None for name in needed), reason="the extra `serve`, or openai, is missing"
    ),
]
OPTIONS = ("decoding.max_new_tokens=8", "threads=1", "cut=windows", "max_seconds=5")
ON_CPU = ("--no-enable-chunked-prefill", "--enforce-eager", "--dtype", "float32", "--max-model-len", "1024")
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "CUDA_VISIBLE_DEVICES": ""}


@contextmanager
def running(place: Workplace, arguments: list[str], port: int) -> Iterator[None]:
    """vLLM's server, from when it answers."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | ENVIRONMENT
    with (place.folder / "vllm.log").open("wb") as log:
        process = subprocess.Popen(
            arguments, cwd=place.folder, env=given, stdout=log, stderr=log, start_new_session=True
        )
        try:
            while not answers(port):
                assert process.poll() is None, (place.folder / "vllm.log").read_text(encoding="utf-8")[-3000:]
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(1)
            yield
        finally:
            process.terminate()
            process.wait(60)


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").is_success
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def rows(place: Workplace, first: Path) -> dict[str, dict[Path, dict[str, Any]]]:
    """Lines of transcripts.jsonl by model and recording, decoded natively."""
    (place.folder / "calls").mkdir()
    for line in read_jsonl(place.folder / "data" / "eval.tokens.jsonl"):
        recording = place.folder / "data" / line["conversation"][1]["content"]
        shutil.copyfile(recording, place.folder / "calls" / recording.name)
    found = {}
    for model, adapter in (("base", "null"), ("meetings", signature(first))):
        given = ("audio=calls", f"out={model}", f"adapter={adapter}", *OPTIONS, "progress=false")
        place.succeed("kimi_audio_ft.transcribe", *given)
        lines = read_jsonl(place.folder / model / "transcripts.jsonl")
        found[model] = {Path(line["audio"]): line for line in lines}
    return found


def signature(sweep: Path) -> str:
    return str(json.loads((sweep / "0" / "scores.json").read_text(encoding="utf-8"))["signature"])


@pytest.fixture(scope="module")
def client(place: Workplace, first: Path) -> Iterator[OpenAI]:
    """Of the page's commands."""
    from openai import OpenAI

    assert PYTHON is not None
    merge, export, vllm, serve = commands("recogniser", "A server on vLLM")
    place.succeed("kimi_audio_ft.merge", *merge[3:], "dtype=float32")
    place.succeed("kimi_audio_ft.export_adapter", *(word.replace("SIGNATURE", signature(first)) for word in export[3:]))
    api = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", *vllm[2:-1]]
    with reserved_port() as theirs, reserved_port() as port, running(place, [*api, str(theirs), *ON_CPU], theirs):
        own = (word.replace(":8001", f":{theirs}") for word in serve[3:])
        forked = place.fork(SERVE, *own, f"port={port}", *OPTIONS)
        found = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=30)
        found.models.list()  # tries again until the server listens
        yield found.with_options(max_retries=0)
        forked.process.terminate()
        assert forked.wait().code == 0


def test_texts_and_times_are_the_native_ones(client: OpenAI, rows: dict[str, dict[Path, dict[str, Any]]]) -> None:
    def ask(model: str, recording: Path) -> Any:
        with recording.open("rb") as file:
            return client.audio.transcriptions.create(file=file, model=model, response_format="verbose_json")

    assert [model.id for model in client.models.list()] == ["base", "meetings"]
    asked = [(model, recording) for model, lines in rows.items() for recording in lines]
    with ThreadPoolExecutor(len(asked)) as clients:
        told = list(clients.map(ask, *zip(*asked, strict=True)))
    for (model, recording), one in zip(asked, told, strict=True):
        row = rows[model][recording]
        assert (one.text, one.duration) == (row["text"], row["seconds"])
        assert one.avg_logprob == pytest.approx(row["avg_logprob"], abs=1e-3)
        wanted = [(piece["start"], piece["end"], piece["text"]) for piece in row["segments"]]
        assert [(piece.start, piece.end, piece.text) for piece in one.segments] == wanted
    assert any(one.text for one in told) and rows["base"].keys() == rows["meetings"].keys()


def test_samples_depend_on_the_seed_and_what_is_heard(
    client: OpenAI, rows: dict[str, dict[Path, dict[str, Any]]]
) -> None:
    def ask(recording: Path) -> str:
        with recording.open("rb") as file:
            return client.audio.transcriptions.create(file=file, model="meetings", temperature=1.5).text

    recordings = list(rows["meetings"])[:3]
    assert list(map(ask, recordings)) == list(map(ask, recordings))
