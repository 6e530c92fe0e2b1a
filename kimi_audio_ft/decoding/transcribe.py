"""Hypotheses for every conversation of an evaluation set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kimi_audio_ft.data.batch import make_batch
from kimi_audio_ft.data.dataset import ConversationDataset
from kimi_audio_ft.data.layout import BLANK, TEXT_EOS
from kimi_audio_ft.decoding.generate import generate_text, utterance_seed
from kimi_audio_ft.decoding.sampling import GREEDY_BELOW
from kimi_audio_ft.model.text_tokenizer import TextTokenizer
from kimi_audio_ft.schema import DecodingConfig


def transcribe(
    model: torch.nn.Module,
    dataset: ConversationDataset,
    tokenizer: TextTokenizer,
    decoding: DecodingConfig,
    token_offset: int,
    seed: int,
    repeat: int,
    progress: bool = False,
) -> dict[str, str]:
    """Hypothesis of every conversation by id, in the manifest's order.

    Args:
        dataset: generation prompts (``for_generation=True``).
        token_offset: ids from here on are audio codes and never part of a text answer.
        repeat: number of this sampling of the whole set, from 0.

    Batches of similar length are decoded together; a result does not depend on them.
    """
    from rich.progress import track

    special = tokenizer.special_tokens
    device = next(model.parameters()).device
    answers: dict[str, str] = {}
    batches = list(_batches(dataset, decoding.batch_size))
    for indices in track(batches, "decoding", disable=not progress, transient=True):
        samples = [dataset[index] for index in indices]
        batch = make_batch(samples, tokenizer.pad_id, left=True, online=dataset.audio.mode == "online")
        seeds = [utterance_seed(seed, repeat, sample.id) for sample in samples]
        inputs = to_device(batch["inputs"], device)
        rows = generate_text(model, inputs, decoding, special[TEXT_EOS], special[BLANK], seeds)
        for sample, tokens in zip(samples, rows, strict=True):
            text = [token for token in tokens if token < token_offset]
            answers[sample.id] = tokenizer.decode(text, skip_special=True)
    return {conversation.id: answers[conversation.id] for conversation in dataset.conversations}


def _batches(dataset: ConversationDataset, size: int) -> Iterator[list[int]]:
    lengths = [length for length, _ in dataset.lengths()]
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    for start in range(0, len(order), size):
        yield order[start : start + size]


def to_device(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The model's inputs, with tensors and lists of tensors on a device."""

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device)
        return [item.to(device) for item in value] if isinstance(value, list) else value

    return {name: moved(value) for name, value in inputs.items()}


def is_greedy(decoding: DecodingConfig) -> bool:
    """Whether decoding draws no random number."""
    return decoding.text_temperature <= GREEDY_BELOW
