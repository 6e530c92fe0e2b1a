"""Hypotheses for every conversation of an evaluation set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from kimi_audio_ft.data.dataset import ConversationDataset, make_batch
from kimi_audio_ft.decoding.generate import Sampling, generate_texts, utterance_seed
from kimi_audio_ft.decoding.request import Pass
from kimi_audio_ft.manifest.conversation import BLANK, TEXT_EOS
from kimi_audio_ft.model.text_tokenizer import TextTokenizer


def transcribe(
    model: torch.nn.Module,
    dataset: ConversationDataset,
    tokenizer: TextTokenizer,
    passes: Sequence[Pass],
    token_offset: int,
    progress: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> list[dict[str, str]]:
    """Hypotheses of every conversation by id, in the manifest's order, one dict per pass.

    Args:
        dataset: generation prompts (``for_generation=True``).
        passes: decoded together from one prefill of every prompt; the smallest ``batch_size`` of theirs is taken.
        token_offset: ids from here on are audio codes and never part of a text answer.
        on_progress: is told how many more utterances are done, counted once for every pass.

    Batches of similar length are decoded together; a result depends neither on them nor on the other passes.
    """
    from rich.progress import track

    special = tokenizer.special_tokens
    device = next(model.parameters()).device
    answers: list[dict[str, str]] = [{} for _ in passes]
    batches = list(_batches(dataset, min(one.decoding.batch_size for one in passes)))
    for indices in track(batches, "decoding", disable=not progress, transient=True):
        samples = [dataset[index] for index in indices]
        batch = make_batch(samples, tokenizer.pad_id, left=True, online=dataset.audio.mode == "online")
        inputs = to_device(batch["inputs"], device)
        samplings = [
            Sampling(one.decoding, [utterance_seed(one.seed, one.repeat, sample.id) for sample in samples])
            for one in passes
        ]
        texts = generate_texts(model, inputs, samplings, special[TEXT_EOS], special[BLANK])
        for found, rows in zip(answers, texts, strict=True):
            for sample, tokens in zip(samples, rows, strict=True):
                text = [token for token in tokens if token < token_offset]
                found[sample.id] = tokenizer.decode(text, skip_special=True)
        if on_progress is not None:
            on_progress(len(samples) * len(passes))
    return [{conversation.id: found[conversation.id] for conversation in dataset.conversations} for found in answers]


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
