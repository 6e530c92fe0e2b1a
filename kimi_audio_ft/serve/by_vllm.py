"""Batches decoded by a running vLLM server: their prompts are made here, and it makes batches of its own of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Any

import torch

from kimi_audio_ft.base import Base
from kimi_audio_ft.config.train import DecodingConfig
from kimi_audio_ft.data.dataset import Sample
from kimi_audio_ft.decoding.generate import longest_answer
from kimi_audio_ft.decoding.request import Answer
from kimi_audio_ft.decoding.vllm import Prompt, answer_of, sampling_arguments
from kimi_audio_ft.features.encode import DTYPES
from kimi_audio_ft.manifest.audio import SAMPLE_RATE
from kimi_audio_ft.manifest.conversation import TEXT_EOS
from kimi_audio_ft.merging.prompt_embeddings import PromptEmbeddings
from kimi_audio_ft.model.audio_frontend import num_audio_tokens
from kimi_audio_ft.serve.batch_queue import Job, RequestRefused, Unavailable
from kimi_audio_ft.serve.front_end import FrontEnd
from kimi_audio_ft.serve.vllm_server import OPTION, PROMPTLY, Completion, NoModel, Rejected, VllmServer

log = logging.getLogger(__name__)

# Pieces that the server has at a time; others wait here, where short recordings go before the ends of long ones.
_AT_ONCE = 64
# Prompts, and their lengths, that show whether the server has the embedding table of the front end; how many of the
# likeliest tokens after them are compared, and by how much their log probabilities may differ in the mean.
_PROBES, _PROBE_LENGTH, _LIKELIEST, _TOLERANCE = 3, 8, 5, 0.3


class ByVllm:
    """A front end, and the vLLM server that has its Qwen2.

    Args:
        base: with the front end as its ``model.path``. folder: of the Qwen2. needed: positions that the server must
            have.
    """

    def __init__(self, base: Base, folder: Path, server: VllmServer, needed: int) -> None:
        self._base, self._folder, self._server, self._needed = base, folder, server, needed
        self._is_sound = False  # batches are handed over without a look at the server
        self._trouble: str | None = None  # that a request or a look has met, until a look finds none
        self._looking = Lock()

    def __enter__(self) -> None:
        self._base.about_to_compute()
        dtype = DTYPES[self._base.settings.dtype]
        self._embeddings = PromptEmbeddings.from_pretrained(self._folder, dtype, self._base.device)
        self._require_sound()
        self._front_end = FrontEnd(self._base)
        self._room, self._threads = BoundedSemaphore(_AT_ONCE), ThreadPoolExecutor(_AT_ONCE, "vllm")

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown()

    def trouble(self) -> str | None:
        """After a failed request the full check is repeated here, since a load balancer may send no request until
        /health is well again."""
        known = self._trouble
        try:
            if known is None:
                self._server.require_health()
            elif not self._looking.locked():
                self._require_sound(PROMPTLY)
        except Unavailable as error:
            return error.rule
        return self._trouble

    def decode(self, batch: Sequence[Job]) -> list[Future[list[Answer]]]:
        if not self._is_sound:
            self._require_sound()
        return [self._handed_over(*pair) for pair in zip(batch, self._front_end.samples(batch), strict=True)]

    def _handed_over(self, job: Job, sample: Sample) -> Future[list[Answer]]:
        prompt = Prompt.of(sample, self._embeddings, [job.requests[0].setting], self._base.tokenizer)
        self._room.acquire()
        found = self._threads.submit(self._answers, job, prompt)
        found.add_done_callback(lambda _: self._room.release())
        return found

    def _answers(self, job: Job, prompt: Prompt) -> list[Answer]:
        """One for each request, which differ in their repeats alone."""
        first, end = job.requests[0], self._base.tokenizer.special_tokens[TEXT_EOS]
        room = self._positions - len(prompt.rows)
        if room < 1:
            has = f"it has {len(prompt.rows)} positions with the recording, and the vLLM server {self._positions}"
            raise RequestRefused(f"prompt: {has}. Give fewer words", "prompt")
        limit = min(prompt.limits[0], room)
        sampling = sampling_arguments(first, job.key, limit, end, likelihoods=True)
        try:
            found = self._server.complete(job.adapter or self._name, [prompt.rows], len(job.requests), **sampling)
        except Rejected:
            self._is_sound = False  # it may have been started with another model
            raise
        except Unavailable as error:
            of_adapter = isinstance(error, NoModel) and job.adapter is not None
            if of_adapter or self._trouble is None:  # once for all requests that fail by it
                log.error("%s", error)
            if not of_adapter:
                self._is_sound, self._trouble = False, error.rule
            raise
        return [answer_of(one.tokens, sum(one.log_probabilities), limit, self._base) for one in found]

    def _require_sound(self, seconds: float = math.inf) -> None:
        """Raise Unavailable unless the server is there and takes embeddings of this front end.

        Args:
            seconds: that it may take over each question, at most ``decoding.vllm.timeout``.
        """
        with self._looking:
            try:
                self._look(seconds)
            except Unavailable as error:
                self._is_sound, self._trouble = False, error.rule
                raise
            if self._trouble is not None:
                log.warning("the vLLM server at %s is back", self._server.url)
            self._is_sound, self._trouble = True, None

    def _look(self, seconds: float) -> None:
        listed = self._server.models()
        self._name, self._positions = listed.base, listed.positions
        if self._positions < self._needed:
            needs = f"a piece with hot words and answer up to {self._needed}"
            rule = f"the vLLM server has {self._positions} positions, and {needs}"
            remedy = f"Start it with --max-model-len {self._needed} or more, or set a smaller max_seconds"
            raise Unavailable(OPTION, self._server.url, rule, remedy)
        table = self._embeddings.embed_tokens.weight
        ids = torch.randint(len(table), (_PROBES, _PROBE_LENGTH), generator=torch.Generator().manual_seed(0))
        ids[:, 0] = last = len(table) - 1
        # The bias of 0 has the server compare ids with its vocabulary: one that is beyond its table may end it.
        probe: dict[str, Any] = {"max_tokens": 1, "temperature": 0.0, "ignore_eos": True}
        probe |= {"logit_bias": {str(last): 0.0}, "logprobs": _LIKELIEST}
        given = ids.tolist(), list(table[ids].cpu())
        try:
            found = [self._server.complete(self._name, prompts, seconds=seconds, **probe) for prompts in given]
        except Rejected as error:
            raise self._other_model(str(error)) from None
        apart = sum(map(_difference, *found)) / _PROBES
        if not apart <= _TOLERANCE:
            said = f"log probabilities after the same tokens, by its embeddings and by these, are {apart:.2g} apart"
            raise self._other_model(said)

    def _other_model(self, how: str) -> Unavailable:
        rule = f"the vLLM server has another model than the front end ({how})"
        remedy = f"Start it with {self._folder}, or set model.path to the front end of its own"
        return Unavailable(OPTION, self._server.url, rule, remedy)


def positions_needed(seconds: float, settings: Iterable[DecodingConfig], words: int, most: int) -> int:
    """Positions of a piece of so many seconds, the hot words and its longest answer under any setting.

    Without the rest of the prompt.

    Args:
        words: positions of the hot words. most: that the model has.
    """
    codes = num_audio_tokens(math.ceil(seconds * SAMPLE_RATE))
    taken = codes + words
    return taken + max(longest_answer(setting, codes, most - taken) for setting in settings)


def _difference(one: Completion, other: Completion) -> float:
    """Mean difference of the log probabilities of the likeliest tokens; 1 for a token that only one of them has."""
    tokens = one.likeliest.keys() | other.likeliest.keys()
    both = one.likeliest.keys() & other.likeliest.keys()
    apart = sum(abs(one.likeliest[token] - other.likeliest[token]) for token in both)
    return (apart + len(tokens - both)) / len(tokens)
