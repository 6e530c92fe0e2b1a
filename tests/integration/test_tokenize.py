"""``tokenize`` by several processes: the same as by one, killed or not."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torch.distributed as dist

from kimi_audio_ft.base import Base
from kimi_audio_ft.config.train import ModelConfig
from kimi_audio_ft.files import write_jsonl
from kimi_audio_ft.store.digests import file_digest
from kimi_audio_ft.store.features import RECORD, FeatureStore
from tests.forkserver import fork_command
from tests.integration.conftest import NewPlace, Workplace
from tests.unit.conftest import answer, audio, line

TOKENIZE = "kimi_audio_ft.tokenize"
COMMAND = ("manifests=[clips.jsonl]", "progress=false", "batch_size=1")
CLIPS = 28


# A person's own code, a callback in the command that starts the processes, which are forked from it here: nobody gets
# beyond a second addition to the store, since nobody ever writes to the pipe.
USER_CODE = """
import sys

from hydra.experimental.callback import Callback

_ADDITIONS = []


def _watch(event, arguments):
    if event == "open" and str(arguments[0]).endswith("index.bin") and "a" in (arguments[1] or ""):
        _ADDITIONS.append(event)
        if len(_ADDITIONS) == 2:
            open("pipe").close()


class User(Callback):
    def on_run_start(self, **kwargs):
        sys.addaudithook(_watch)
"""


def write_clips(folder: Path) -> None:
    rng = np.random.default_rng(4)
    for index in range(CLIPS):
        soundfile.write(folder / f"{index}.wav", rng.normal(0, 0.1, 1000 + 397 * index), 16000)
    write_jsonl(
        folder / "clips.jsonl", [line(f"{index}.wav", audio(f"{index}.wav"), answer("好")) for index in range(CLIPS)]
    )


def store_of(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(place.store))
    return Base(ModelConfig(dtype="float32"), "cached").encoders().store()


@pytest.fixture(scope="module")
def whole(new_workplace: NewPlace) -> Any:
    """Where one process has tokenized the clips."""
    place = new_workplace()
    write_clips(place.folder)
    said = place.succeed(TOKENIZE, *COMMAND)
    assert f"to encode: {CLIPS} recordings" in said and f"encoded {CLIPS} recordings, 0.0" in said
    assert "hours of audio per second" in said and "of 2 processes" not in said
    return place


def assert_same(place: Workplace, whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifests byte by byte; every recording once in the store, with the same codes and features."""
    assert (place.folder / "clips.tokens.jsonl").read_bytes() == (whole.folder / "clips.tokens.jsonl").read_bytes()
    ours, theirs = store_of(place, monkeypatch), store_of(whole, monkeypatch)
    assert len(ours) == len(theirs)
    for index in range(CLIPS):
        key = file_digest(place.folder / f"{index}.wav")
        assert ours.codes(key) == theirs.codes(key)
        torch.testing.assert_close(ours.features(key), theirs.features(key), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_killed_workers_lose_and_double_nothing(
    workplace: Workplace, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 of the command and its two workers once something has been stored; then one process does the rest."""
    write_clips(workplace.folder)
    (workplace.folder / "user_code.py").write_text(USER_CODE, encoding="utf-8")
    os.mkfifo(workplace.folder / "pipe")
    (index,) = (workplace.store / "features").glob("[!.]*/index.bin")
    before = index.stat().st_size
    user = "+hydra.callbacks.user._target_=user_code.User"
    running = workplace.fork(TOKENIZE, *COMMAND, "devices=2", user).process
    while index.stat().st_size == before and running.exitcode is None:
        running.join(0.02)
    assert running.exitcode is None
    os.killpg(running.pid, signal.SIGKILL)
    running.join()
    kept = (index.stat().st_size - before) // RECORD.itemsize
    assert 0 < kept < CLIPS and not (workplace.folder / "clips.tokens.jsonl").exists()
    done = workplace.run(TOKENIZE, *COMMAND)
    assert done.code == 0 and f"to encode: {CLIPS - kept} recordings" in done.out
    assert_same(workplace, whole, monkeypatch)


@pytest.mark.slow
def test_torchrun(workplace: Workplace, whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clips(workplace.folder)
    """Processes with what torchrun tells its processes, each of which would import everything anew."""
    meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(meeting.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    environment = os.environ | told | {"WORLD_SIZE": "2", "KIMI_AUDIO_FT_STORE": str(workplace.store)}
    logs = [workplace.folder / f"{rank}.log" for rank in range(2)]
    processes = [
        fork_command(TOKENIZE, COMMAND, workplace.folder, environment | {"RANK": rank, "LOCAL_RANK": rank}, log)
        for rank, log in zip("01", logs, strict=True)
    ]
    for process in processes:
        process.join()
    said = "".join(log.read_text(encoding="utf-8") for log in logs)
    assert [process.exitcode for process in processes] == [0, 0], said
    assert said.count("encoded ") == 1 and "of 2 processes: " in said
    assert_same(workplace, whole, monkeypatch)
