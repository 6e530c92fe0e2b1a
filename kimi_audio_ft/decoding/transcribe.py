"""Hypotheses for every conversation of an evaluation set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from kimi_audio_ft.data.dataset import ConversationDataset, make_batch
from kimi_audio_ft.decoding.generate import generate_texts, utterance_seed
from kimi_audio_ft.decoding.request import DecodingRequest
from kimi_audio_ft.manifest.conversation import BLANK, TEXT_EOS
from kimi_audio_ft.model.text_tokenizer import TextTokenizer


def transcribe(
    model: torch.nn.Module,
    dataset: ConversationDataset,
    tokenizer: TextTokenizer,
    requests: Sequence[DecodingRequest],
    token_offset: int,
    progress: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> list[dict[str, str]]:
    """Hypotheses of every conversation by id, in the manifest's order, one dict per request.

    Args:
        dataset: generation prompts (``for_generation=True``).
        requests: decoded from one prefill of every prompt, in batches of the smallest ``batch_size`` among them.
        token_offset: ids from here on are audio codes and never part of a text answer.
        on_progress: called with the number of newly decoded utterances, counted once per request.

    A hypothesis depends neither on the batch nor on the other requests.
    """
    special = tokenizer.special_tokens
    device = next(model.parameters()).device
    answers: list[dict[str, str]] = [{} for _ in requests]
    settings = [request.setting for request in requests]
    batches = list(_batches(dataset, min(setting.batch_size for setting in settings)))
    for indices in track(batches, "decoding", disable=not progress, transient=True):
        samples = [dataset[index] for index in indices]
        batch = make_batch(samples, tokenizer.pad_id, left=True, online=dataset.audio.mode == "online")
        inputs = to_device(batch["inputs"], device)
        seeds = [[utterance_seed(one.seed, one.repeat, sample.id) for sample in samples] for one in requests]
        texts = generate_texts(model, inputs, settings, seeds, special[TEXT_EOS], special[BLANK])
        for found, rows in zip(answers, texts, strict=True):
            for sample, tokens in zip(samples, rows, strict=True):
                text = [token for token in tokens if token < token_offset]
                found[sample.id] = tokenizer.decode(text, skip_special=True)
        if on_progress is not None:
            on_progress(len(samples) * len(requests))
    return [{conversation.id: found[conversation.id] for conversation in dataset.conversations} for found in answers]


def _batches(dataset: ConversationDataset, size: int) -> Iterator[list[int]]:
    """Indices of conversations of similar length."""
    order = dataset.lengths()[:, 0].argsort(kind="stable").tolist()
    for start in range(0, len(order), size):
        yield order[start : start + size]


def to_device(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The model's inputs, with tensors and lists of tensors on a device."""

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device)
        return [item.to(device) for item in value] if isinstance(value, list) else value

    return {name: moved(value) for name, value in inputs.items()}
