"""An evaluation set decoded in this process, by vLLM, or shared out over several devices by one process for each.

Shares are made of the batches that one device would decode, so its results are theirs to the last digit; but with
``decoding.batch_size=auto`` there are at least two batches for each device, and in bf16 texts may differ with them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kimi_audio_ft.base import Base
from kimi_audio_ft.config.train import VLLM
from kimi_audio_ft.data.dataset import Samples
from kimi_audio_ft.decoding.budget import Budget, budget_of
from kimi_audio_ft.decoding.request import Answers, DecodingRequest
from kimi_audio_ft.decoding.transcribe import batches_of, transcribe
from kimi_audio_ft.decoding.vllm import Prompts, decode_by_vllm, leave_gpu
from kimi_audio_ft.runtime.devices import share_threads
from kimi_audio_ft.runtime.environment import environment
from kimi_audio_ft.runtime.libraries import quiet_libraries
from kimi_audio_ft.runtime.signals import Interrupted, StopRequest
from kimi_audio_ft.runtime.workers import Send, WorkerDied, run_workers

log = logging.getLogger(__name__)

ROWS_PER_PROCESS = 64
"""Hypotheses that are worth a process: starting it and reading the base takes seconds, a 7B base more than ten."""

Batches = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Work:
    """Generation prompts to decode under requests, by the base with the adapter in a folder (None: alone).

    progress: show a bar. likelihoods: also compute the log probability of every hypothesis.
    budget: that batches are filled by; None: they have the size that the requests ask for.
    """

    base: Base
    adapter: Path | None
    prompts: Samples
    requests: Sequence[DecodingRequest]
    progress: bool
    likelihoods: bool = False
    budget: Budget | None = None

    def unknown(self, known: Answers) -> list[int]:
        """Indices of the conversations without all of their hypotheses."""
        names = self.prompts.conversations
        return [index for index in range(len(names)) if not all(names[index].id in found for found in known)]

    def left(self, known: Answers) -> Batches:
        """Batches that ``known``, one dict per request, does not cover."""
        found, names = [one.keys() for one in known], self.prompts.conversations
        batches = batches_of(self.prompts, self.requests, self.budget)
        return [some for some in batches if not all(names[index].id in keys for index in some for keys in found)]

    def decode(self, batches: Batches, on_batch: Callable[[Answers], None], should_stop: Callable[[], bool]) -> None:
        """Decode batches in this process."""
        base = self.base
        given = (self.prompts, base.tokenizer, self.requests, base.tokens.first, self.progress)
        with base.saved_adapter(self.adapter) as model:
            transcribe(model, *given, on_batch, batches, should_stop, self.likelihoods)


def decode_shared(
    work: Work, known: Answers, devices: int, on_batch: Callable[[Answers], None], should_stop: Callable[[], bool]
) -> tuple[Answers, dict[str, Any]]:
    """Hypotheses of every conversation by id, in the manifest's order, one dict per request; and their environment.

    Args:
        known: hypotheses of an earlier, interrupted call; batches that they cover are left out.
        devices: most processes that share the work, each with the whole base; a single one is this process.
        on_batch: called here with the hypotheses of each batch, one dict per request.

    Raises:
        Interrupted: on ``should_stop``, once every process has ended its batch.
        WorkerDied: a process died, and then one of those that decoded what was left.
    """
    answers, facts = [dict(found) for found in known], environment(work.base.settings, work.base.accelerator)

    def take(new: Answers) -> None:
        for found, some in zip(answers, new, strict=True):
            found.update(some)
        on_batch(new)

    batches: Batches = []
    if work.requests and work.requests[0].setting.engine == VLLM:
        if wanted := work.unknown(answers):
            given = (Prompts(work.prompts, wanted), work.requests, work.likelihoods, take, should_stop, work.progress)
            facts["vllm"] = decode_by_vllm(work.base, work.adapter, *given)
    elif work.unknown(answers):
        leave_gpu(work.base)
        adapted = work.adapter is not None
        budget = budget_of(work.base, work.requests, len(work.prompts), adapted, devices)
        work = replace(work, budget=budget)
        batches = work.left(answers)
    count = min(devices, len(batches), sum(map(len, batches)) * len(work.requests) // ROWS_PER_PROCESS)
    if count > 1:
        facts = _in_processes(work, answers, count, take, should_stop)
    elif batches:
        work.decode(batches, take, should_stop)
    if work.budget is not None:  # on which texts in bf16 depend, and their signatures do not
        whole = batches_of(work.prompts, work.requests, work.budget)  # those of an earlier call too
        facts["batches"] = {"number": len(whole), "largest": max(map(len, whole))}
    return [{one.id: found[one.id] for one in work.prompts.conversations} for found in answers], facts


def _in_processes(
    work: Work, answers: Answers, count: int, take: Callable[[Answers], None], should_stop: Callable[[], bool]
) -> dict[str, Any]:
    work.base.release()  # the processes need the devices
    facts: dict[str, Any] = {}

    def on_message(rank: int, message: Answers | dict[str, Any]) -> None:
        if isinstance(message, dict):
            facts.update(message)
        else:
            take(message)

    died = False
    while batches := work.left(answers):
        shares = shared_out(batches, work.prompts.lengths()[:, 0], count)
        try:
            run_workers(_decode_share, (work, shares), len(shares), on_message, should_stop=should_stop)
        except WorkerDied as error:
            if should_stop():  # it could not listen yet
                raise Interrupted(0) from None
            if died:
                raise
            died = True
            log.warning("decoding: %s; what it has left is decoded anew", error)
        if should_stop():
            raise Interrupted(0)
    return facts


def shared_out(batches: Batches, positions: np.ndarray, count: int) -> list[Batches]:
    """At most ``count`` shares of batches: each batch, the longest first, goes where the fewest positions are."""
    shares: list[list[Sequence[int]]] = [[] for _ in range(min(count, len(batches)))]
    loads = [0] * len(shares)
    for indices in batches:
        least = loads.index(min(loads))
        shares[least].append(indices)
        loads[least] += int(positions[list(indices)].sum())
    return list(shares)


def _decode_share(rank: int, send: Send, work: Work, shares: list[Batches]) -> None:
    """Decode one share; every batch is sent, and by the first process its environment."""
    stop = StopRequest(ignore_ctrl_c=True).listen()  # the starting process answers Ctrl-C, with one SIGTERM
    share_threads(work.base.threads, len(shares))
    quiet_libraries()
    logging.basicConfig(format="%(message)s", level=logging.WARNING if rank == 0 else logging.ERROR)
    if work.base.device.type == "cuda":
        torch.cuda.set_device(work.base.device)
    if rank == 0:
        send(environment(work.base.settings, work.base.accelerator))
    with suppress(Interrupted):
        replace(work, progress=work.progress and rank == 0).decode(shares[rank], send, stop)
