"""Decoding shared out over two processes: the results of one, whatever happens to them."""

from __future__ import annotations

import fcntl
import multiprocessing
from collections.abc import Callable, Iterator
from itertools import chain
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kimi_audio_ft import store
from kimi_audio_ft.config.train import DecodingConfig, TrainConfig
from kimi_audio_ft.decoding.request import DecodingRequest
from kimi_audio_ft.decoding.shares import shared_out
from kimi_audio_ft.decoding.transcribe import batches_of
from kimi_audio_ft.decoding.transcripts import Transcripts, decode_all
from kimi_audio_ft.outcomes import BASE
from kimi_audio_ft.runtime.signals import Interrupted
from kimi_audio_ft.runtime.workers import WorkerDied
from kimi_audio_ft.sweep.events import Decoding, Event, Ready
from kimi_audio_ft.sweep.plan import Task, Unit
from kimi_audio_ft.sweep.worker import make_units
from kimi_audio_ft.trial import Trial
from tests.unit.decoding.held_samples import HeldSamples

# Hot enough to go on to the end.
HOT = DecodingConfig(text_temperature=8.0, text_top_k=0, max_new_tokens=20, batch_size=1, repeats=2)
REQUESTS = [DecodingRequest(HOT, 1)]
ROWS = 9 * 2


@pytest.fixture
def two(trial_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch) -> Trial:
    """A trial on two devices, which share even a small evaluation set."""
    monkeypatch.setattr("kimi_audio_ft.decoding.shares.ROWS_PER_PROCESS", 1)
    return Trial(trial_config(trainer={"strategy": "ddp", "devices": 2}))


@pytest.fixture
def let_go(two: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """One process waits at its first batch, with all others to do, until this is called; the other one tells."""
    evaluation = two.evaluation
    make = evaluation.dataset

    def held(*arguments: Any, **options: Any) -> HeldSamples:
        samples: Any = make(*arguments, **options)
        samples.__class__ = HeldSamples
        samples.held, samples.lock = batches_of(samples, REQUESTS)[0][0], lock
        return samples

    monkeypatch.setattr(evaluation, "dataset", held)
    lock = tmp_path / "lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield lambda: fcntl.flock(file, fcntl.LOCK_UN)


@pytest.fixture(scope="module")
def one_device(trial_config: Callable[..., TrainConfig], tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Files of the transcripts that one device makes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIMI_AUDIO_FT_STORE", str(tmp_path_factory.mktemp("one")))
        return files_of(decode_all(Trial(trial_config()).evaluation, REQUESTS, None)[0])


def files_of(transcripts: Transcripts) -> list[bytes]:
    folders = [store.product_path("transcript", name) for name in transcripts.signatures]
    return [(folder / "transcripts.jsonl").read_bytes() for folder in folders]


def refuse(*_: Any) -> None:
    raise AssertionError("decoded in this process")


def kill_workers() -> None:
    for process in multiprocessing.active_children():
        process.kill()


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_shares_are_even_and_whole(count: int) -> None:
    positions = np.array([3, 5, 8, 8, 13, 21, 34])
    batches = [[6, 5], [4, 3], [2, 1], [0]]
    shares = shared_out(batches, positions, count)
    assert sorted(chain.from_iterable(shares)) == sorted(batches) and len(shares) == min(count, 4) and all(shares)
    assert shares[:2] == [[[6, 5]], [[4, 3], [2, 1], [0]]] or count != 2


@pytest.mark.slow
def test_a_task_of_two_devices_decodes_on_both_of_them(two: Trial, one_device: list[bytes]) -> None:
    two.base.load().register_forward_hook(refuse)  # of a base that is released when the processes begin
    events: list[Event] = []
    two.config.decoding = HOT
    make_units(Task(0, [Unit(BASE, [two.config])]), events.append, lambda: False)
    assert events[-1] == Ready(BASE) and Decoding(BASE, ROWS, ROWS) in events
    [found] = decode_all(two.evaluation, REQUESTS, None)
    assert files_of(found) == one_device
    assert found.environment is not None and found.environment["device"] == "CPU"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stopped", "killed twice"])
def test_what_every_process_has_decoded_is_kept_for_the_next_start(
    two: Trial,
    one_device: list[bytes],
    let_go: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    told: list[int] = []
    terminate = BaseProcess.terminate

    def stop(process: BaseProcess) -> None:
        terminate(process)
        if how == "stopped":
            let_go()

    def on_progress(done: int, total: int) -> None:
        told.append(done)
        if how == "killed twice":
            kill_workers()

    monkeypatch.setattr(BaseProcess, "terminate", stop)
    kind = Interrupted if how == "stopped" else WorkerDied
    with pytest.raises(kind):
        decode_all(
            two.evaluation, REQUESTS, None, False, on_progress, lambda: how == "stopped" and bool(told),
            two.config.trainer,
        )  # fmt: skip
    assert told and not multiprocessing.active_children()
    let_go()
    before = len(told)
    [found] = decode_all(two.evaluation, REQUESTS, None, on_progress=lambda done, total: told.append(done))
    assert files_of(found) == one_device
    assert told[-1] == ROWS and told[before - 1] < min(told[before:])
    assert not any(store.work_folder("transcript", name).exists() for name in found.signatures)


@pytest.mark.slow
def test_a_process_that_dies_once_costs_nothing(
    two: Trial, one_device: list[bytes], let_go: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    told: list[int] = []

    def on_progress(done: int, total: int) -> None:
        told.append(done)
        if len(told) == 1:
            kill_workers()
            let_go()

    [found] = decode_all(two.evaluation, REQUESTS, None, False, on_progress, None, two.config.trainer)
    assert files_of(found) == one_device and "died" in caplog.text and told[-1] == ROWS


def test_little_work_is_worth_no_process(trial_config: Callable[..., TrainConfig]) -> None:
    trial = Trial(trial_config(trainer={"strategy": "ddp", "devices": 2}))
    seen: list[int] = []
    hook = trial.base.load().register_forward_hook(lambda *_: seen.append(1))
    decode_all(trial.evaluation, REQUESTS, None, trainer=trial.config.trainer)
    hook.remove()
    assert seen
