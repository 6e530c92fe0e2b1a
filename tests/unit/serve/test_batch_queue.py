"""Jobs of simultaneous requests: which are decoded together, in what order, and as they would be alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from kimi_audio_ft.base import Base
from kimi_audio_ft.config.train import DEFAULT_PROMPT, DecodingConfig, ModelConfig
from kimi_audio_ft.decoding.request import DecodingRequest
from kimi_audio_ft.serve.batch_queue import BatchQueue, Job
from kimi_audio_ft.serve.native import Native

GREEDY = DecodingRequest(DecodingConfig(max_new_tokens=6), 0)
SAMPLED = [DecodingRequest(DecodingConfig(max_new_tokens=6, text_temperature=0.8), 3, repeat) for repeat in range(2)]


@pytest.fixture(scope="module")
def base() -> Base:
    return Base(ModelConfig(dtype="float32"), "cached")


def job(
    key: str, number: int = 0, prompt: str = DEFAULT_PROMPT, requests: Sequence[DecodingRequest] = (GREEDY,)
) -> Job:
    """A second and a half of noise drawn from the key."""
    noise = torch.Generator().manual_seed(sum(key.encode()))
    return Job(key, number, 0.1 * torch.randn(24_000, generator=noise), None, prompt, requests)


def decoded(base: Base, jobs: Sequence[Job], batch_size: int = 4) -> tuple[list[list[str]], int]:
    """The texts of jobs that all wait before the first is decoded, and the number of batches."""
    queue = BatchQueue(Native(base), batch_size)
    queue.submit(jobs)
    with queue:
        texts = [[str(one) for one in job.answers.result(60)] for job in jobs]
    return texts, queue.batches


def test_waiting_jobs_are_decoded_together_as_each_alone(base: Base) -> None:
    together, batches = decoded(base, [job(key) for key in "abcde"])
    assert batches == 2
    assert together == [decoded(base, [job(key)])[0][0] for key in "abcde"]
    assert any(text for (text,) in together)


def test_other_settings_are_another_batch_and_the_same_recording_is_decoded_once(base: Base) -> None:
    jobs = [job("a"), job("a"), job("b", requests=SAMPLED), job("a", prompt="听写")]
    texts, batches = decoded(base, jobs)
    assert batches == 3 and texts[0] == texts[1] and len(texts[2]) == 2


def test_short_recordings_go_before_the_ends_of_long_ones(base: Base) -> None:
    order: list[str] = []
    jobs = [job(f"long {number}", number) for number in range(3)] + [job("short")]
    for one in jobs:
        one.answers.add_done_callback(lambda _, key=one.key: order.append(key))
    decoded(base, jobs, batch_size=1)
    assert order == ["long 0", "short", "long 1", "long 2"]


def test_long_recordings_end_however_many_short_ones_come(base: Base) -> None:
    """A short one comes with every batch; the pieces of the long one are decoded between them."""
    queue, order = BatchQueue(Native(base), 1), list[str]()
    long = [job(f"long {number}", number) for number in range(2)]
    short = [job(f"short {number}") for number in range(3)]
    coming = iter(short)

    def note(key: str) -> None:
        order.append(key)
        queue.submit([one for one in [next(coming, None)] if one is not None])

    for one in [*long, *short]:
        one.answers.add_done_callback(lambda _, key=one.key: note(key))
    queue.submit(long)
    with queue:
        for one in [*long, *short]:
            one.answers.result(60)
    assert order.index("long 1") < order.index("short 2")


def test_failed_batches_in_a_row_are_counted(base: Base, tmp_path: Path) -> None:
    queue, jobs = BatchQueue(Native(base), 1), [job("fine"), job("lost"), job("lost too")]
    for one in jobs[1:]:
        one.adapter = str(tmp_path / "no adapter")
    queue.submit(jobs)
    with queue:
        assert jobs[2].answers.exception(60) is not None
        assert queue.failed_in_a_row == 2
        queue.submit([again := job("fine again")])
        assert again.answers.result(60)
    assert queue.failed_in_a_row == 0


def test_cancelled_jobs_cost_nothing_and_errors_are_told(base: Base, tmp_path: Path) -> None:
    gone, lost, fine = job("gone"), job("lost"), job("fine")
    lost.adapter = str(tmp_path / "no adapter")
    assert gone.answers.cancel()
    queue = BatchQueue(Native(base), 1)
    queue.submit([gone, lost, fine])
    with queue:
        assert lost.answers.exception(60) is not None
        assert fine.answers.result(60)
    assert queue.decoded == 1


def test_what_comes_too_late_is_cancelled(base: Base) -> None:
    with BatchQueue(Native(base), 1) as queue:
        pass
    late = job("late")
    queue.submit([late])
    assert late.answers.cancelled() and queue.decoded == 0
