"""Hypotheses for every conversation of an evaluation set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from kimi_audio_ft.data.dataset import Sample, Samples, make_batch
from kimi_audio_ft.decoding.budget import AUTO_ON_CPU, Budget
from kimi_audio_ft.decoding.generate import answer_limits, generate_texts, utterance_seed
from kimi_audio_ft.decoding.request import Answer, Answers, DecodingRequest, batch_size_of
from kimi_audio_ft.manifest.conversation import BLANK, TEXT_EOS
from kimi_audio_ft.model.text_tokenizer import TextTokenizer
from kimi_audio_ft.runtime.devices import free_memory, out_of_memory
from kimi_audio_ft.runtime.signals import Interrupted

MOST_POSITIONS = 32_768
"""Positions of all prompts of a batch together: eight of five minutes each."""


def transcribe(
    model: torch.nn.Module,
    dataset: Samples,
    tokenizer: TextTokenizer,
    requests: Sequence[DecodingRequest],
    token_offset: int,
    progress: bool = False,
    on_batch: Callable[[Answers], None] | None = None,
    batches: Sequence[Sequence[int]] | None = None,
    should_stop: Callable[[], bool] | None = None,
    likelihoods: bool = False,
) -> Answers:
    """Hypotheses of every conversation by id, in the manifest's order, one dict per request.

    Args:
        dataset: generation prompts (``for_generation=True``).
        requests: decoded from one prefill of every prompt.
        token_offset: ids from here on are audio codes and never part of a text answer.
        on_batch: called with the hypotheses of each batch, one dict per request.
        batches: those of ``batches_of`` to decode; None: all, without a budget.
        should_stop: asked after every batch.
        likelihoods: also give every hypothesis its log probability.

    In float32 a hypothesis depends neither on the batch nor on the other requests; in bf16 one in about thirty does,
    as rows of its products depend on their number. A batch that does not fit into memory is decoded in halves.

    Raises:
        Interrupted: on ``should_stop``.
    """
    answers: Answers = [{} for _ in requests]
    if batches is None:
        batches = batches_of(dataset, requests)
    for indices in track(batches, "decoding", disable=not progress, transient=True):
        samples, online = [dataset[index] for index in indices], dataset.audio.mode == "online"
        new = answer(model, samples, tokenizer, requests, token_offset, online, likelihoods)
        for found, some in zip(answers, new, strict=True):
            found.update(some)
        if on_batch is not None:
            on_batch(new)
        if should_stop is not None and should_stop():
            raise Interrupted(0)
    ids = [dataset.conversations[index].id for index in sorted(chain.from_iterable(batches))]
    return [{key: found[key] for key in ids} for found in answers]


def answer(
    model: torch.nn.Module,
    samples: Sequence[Sample],
    tokenizer: TextTokenizer,
    requests: Sequence[DecodingRequest],
    token_offset: int,
    online: bool = False,
    likelihoods: bool = False,
) -> Answers:
    """Hypotheses of one batch by id, one dict per request; in halves, while it does not fit into memory.

    Args:
        samples: generation prompts. online: they have waveforms in place of features, for a model with an attached
            Whisper encoder. The others are those of ``transcribe``.
    """
    special = tokenizer.special_tokens
    device = next(model.parameters()).device

    def decoded(some: Sequence[DecodingRequest], samples: Sequence[Sample]) -> Answers:
        batch = make_batch(samples, tokenizer.pad_id, left=True, online=online)
        seeds = [[utterance_seed(one.seed, one.repeat, sample.id) for sample in samples] for one in some]
        settings = [request.setting for request in some]
        inputs = to_device(batch["inputs"], device)
        texts = generate_texts(model, inputs, settings, seeds, special[TEXT_EOS], special[BLANK], likelihoods)
        return [
            {
                sample.id: Answer(
                    text_of(tokens, tokenizer, token_offset),
                    len(tokens) >= limit,
                    tokens.log_probability,
                    tokens.choices,
                )
                for sample, tokens, limit in zip(samples, rows, answer_limits(model, inputs, setting), strict=True)
            }
            for setting, rows in zip(settings, texts, strict=True)
        ]

    return _in_halves(decoded, requests, samples)


def text_of(tokens: Sequence[int], tokenizer: TextTokenizer, token_offset: int) -> str:
    """The text of an answer's tokens, of which those from ``token_offset`` on are audio codes."""
    return tokenizer.decode([token for token in tokens if token < token_offset], skip_special=True)


def _in_halves(
    decoded: Callable[[Sequence[DecodingRequest], Sequence[Sample]], Answers],
    requests: Sequence[DecodingRequest],
    samples: Sequence[Sample],
) -> Answers:
    """One batch, in halves of its conversations, then of its requests, while it does not fit into memory."""
    try:
        return decoded(requests, samples)
    except Exception as error:
        if not out_of_memory(error) or len(samples) == len(requests) == 1:
            raise
    # Outside the handler, whose traceback keeps the tensors of the failed batch alive.
    free_memory()
    if len(samples) > 1:
        middle = len(samples) // 2
        parts = [_in_halves(decoded, requests, half) for half in (samples[:middle], samples[middle:])]
        return [one | two for one, two in zip(*parts, strict=True)]
    middle = len(requests) // 2
    halves = (requests[:middle], requests[middle:])
    return [found for half in halves for found in _in_halves(decoded, half, samples)]


def batches_of(dataset: Samples, requests: Sequence[DecodingRequest], budget: Budget | None = None) -> list[list[int]]:
    """Indices of conversations of similar length, the longest first: what does not fit into memory fails at once.

    Each has as many as the ``budget`` allows, or the smallest ``batch_size`` of the requests, fewer where prompts are
    long.
    """
    lengths, given = dataset.lengths()[:, 0], batch_size_of(requests)
    most = AUTO_ON_CPU if isinstance(given, str) else given
    order = lengths.argsort(kind="stable").tolist()[::-1]
    batches, start = list[list[int]](), 0
    while start < len(order):
        longest = int(lengths[order[start]])
        count = max(1, min(most, MOST_POSITIONS // longest)) if budget is None else budget.utterances(longest)
        batches.append(order[start : start + count])
        start += count
    return batches


def to_device(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The model's inputs, with tensors and lists of tensors on a device."""

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device)
        return list(map(moved, value)) if isinstance(value, list) else value

    return {name: moved(value) for name, value in inputs.items()}
