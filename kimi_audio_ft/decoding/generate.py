"""Batched generation of text answers (published decoding of output type "text")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kimi_audio_ft.decoding.sampling import GREEDY_BELOW, choose, penalize_repetition
from kimi_audio_ft.lora.adapter import stable_seed
from kimi_audio_ft.schema import DecodingConfig


@torch.inference_mode()
def generate_text(
    model: torch.nn.Module,
    inputs: dict[str, Any],
    decoding: DecodingConfig,
    text_eos: int,
    blank: int,
    seeds: Sequence[int],
) -> list[list[int]]:
    """Text tokens of each row's answer, without the end token.

    Args:
        inputs: arguments of ``forward`` for left-padded generation prompts (``data.batch.make_batch``).
        text_eos: the token that ends an answer; no other id ends one.
        blank: the audio stream's token at every decoded position.
        seeds: one per row; a row's samples depend on its own seed only.

    Every step feeds (blank, last token) at the next position, without features. Rows that are finished leave the
    batch.
    """
    mask_BS = inputs["attention_mask"]
    num_rows, device = mask_BS.shape[0], mask_BS.device
    uniforms = _uniforms(decoding, seeds)
    answers: list[list[int]] = [[] for _ in range(num_rows)]
    active = torch.arange(num_rows)
    last = torch.zeros_like(mask_BS, dtype=torch.bool)
    last[:, -1] = True
    out = model(**inputs, audio_branch=False, use_cache=True, text_positions=last)
    for step in range(decoding.max_new_tokens):
        logits_BV = _penalized(out.text_logits, [answers[row] for row in active.tolist()], decoding)
        numbers = uniforms[active, step].to(device)
        tokens = choose(logits_BV, decoding.text_temperature, decoding.text_top_k, numbers)
        going = tokens != text_eos
        for row, token in zip(active[going.cpu()].tolist(), tokens[going].tolist(), strict=True):
            answers[row].append(token)
        if not going.any() or step + 1 == decoding.max_new_tokens:
            break
        cache = out.past_key_values
        if not going.all():
            kept = going.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            active, tokens, mask_BS = active[going.cpu()], tokens[going], mask_BS[kept]
        mask_BS = torch.nn.functional.pad(mask_BS, (0, 1), value=1)
        out = model(
            input_ids=torch.full((len(tokens), 1), blank, device=device),
            text_input_ids=tokens.unsqueeze(1),
            attention_mask=mask_BS,
            past_key_values=cache,
            audio_branch=False,
            text_positions=torch.ones(len(tokens), 1, dtype=torch.bool, device=device),
        )
    return answers


def _uniforms(decoding: DecodingConfig, seeds: Sequence[int]) -> Tensor:
    """``[rows, max_new_tokens]`` numbers in [0, 1), each row from its own generator."""
    if decoding.text_temperature <= GREEDY_BELOW:
        return torch.zeros(len(seeds), decoding.max_new_tokens)
    rows = [
        torch.rand(decoding.max_new_tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for seed in seeds
    ]
    return torch.stack(rows)


def _penalized(logits_BV: Tensor, answers: list[list[int]], decoding: DecodingConfig) -> Tensor:
    penalty, window = decoding.text_repetition_penalty, decoding.text_repetition_window_size
    if penalty <= 1.0:
        return logits_BV
    rows = [
        penalize_repetition(row, torch.tensor(answer, device=row.device), penalty, window)
        for row, answer in zip(logits_BV, answers, strict=True)
    ]
    return torch.stack(rows)


def utterance_seed(seed: int, repeat: int, utterance: str) -> int:
    """Seed of one utterance's sampling; the same at every temperature, so that settings are compared pairwise."""
    return stable_seed("sampling", seed, repeat, utterance)
