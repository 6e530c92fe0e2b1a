"""Micro-batches of adapters as forward passes: shared rows once, own rows side by side."""

from __future__ import annotations

from typing import Any

import torch

from kimi_audio_ft.config.train import OptimConfig
from kimi_audio_ft.data.dataset import answers_of
from kimi_audio_ft.model.places import places_of
from kimi_audio_ft.training.adapters import AdapterState
from kimi_audio_ft.training.passes import turns

ONE, TWO = (AdapterState(OptimConfig(), 1, name) for name in ("one", "two"))


def micro_batch(number: int, rows: int, length: int, codes: int) -> dict[str, Any]:
    """Rows that begin with audio codes and end with a supervised position, all ids the number of the batch."""
    ids, mask = torch.full((rows, length), number), torch.zeros(rows, length, dtype=torch.bool)
    mask[:, -1] = True
    is_code = torch.zeros_like(mask)
    is_code[:, :codes] = True
    inputs = {
        **{"input_ids": ids, "text_input_ids": ids, "is_continuous_mask": is_code},
        **{"attention_mask": torch.ones_like(ids), "audio_features": [torch.zeros(codes, 4)] * rows},
        **{"audio_places": places_of(is_code), "audio_lengths": [codes] * rows},
    }
    batch = {"inputs": inputs, "text_loss_mask": mask, "text_labels": ids, "weight": 0.5, "number": number}
    return batch | {"answers": answers_of(ids, mask), "samples": (number << 20) + torch.arange(rows)}


def test_shared_rows_are_computed_for_all_at_once() -> None:
    [batch] = turns([micro_batch(3, rows=2, length=5, codes=2)], [ONE, TWO])
    assert batch["copies"] == 2 and batch["inputs"]["input_ids"].shape == (2, 5)
    assert [(share.name, share.rows, share.audio, share.answers) for share in batch["shares"]] == [
        ("one", 2, 4, 2),
        ("two", 2, 4, 2),
    ]
    assert batch["micro_batches"] == [(ONE, 3, 5), (TWO, 3, 5)] and batch["owners"] == [0, 1]


def test_own_rows_are_padded_to_the_longest_and_a_shorter_step_ends_earlier() -> None:
    step = {"one": [micro_batch(1, 2, 5, 2), micro_batch(2, 1, 4, 1)], "two": [micro_batch(7, 1, 3, 1)]}
    both, alone = turns(step, [ONE, TWO])
    assert both["copies"] == 1 and both["inputs"]["input_ids"].tolist() == [[1] * 5, [1] * 5, [7, 7, 7, 0, 0]]
    assert both["inputs"]["attention_mask"].sum(-1).tolist() == [5, 5, 3]
    assert [(share.name, share.rows, share.audio, share.answers) for share in both["shares"]] == [
        ("one", 2, 4, 2),
        ("two", 1, 1, 1),
    ]
    assert len(both["inputs"]["audio_features"]) == 3 and both["owners"] == [0, 1]
    assert both["micro_batches"] == [(ONE, 1, 5), (TWO, 7, 3)]
    assert both["weights"] == [0.5, 0.5]
    assert both["answers"].tolist() == [4, 9, 12]
    assert both["inputs"]["audio_places"].tolist() == [0, 1, 5, 6, 10] and both["inputs"]["audio_lengths"] == [2, 2, 1]
    assert [target.labels_N.tolist() for target in both["targets"]] == [[1, 1], [7]]
    assert alone["owners"] == [0] and alone["micro_batches"] == [(ONE, 2, 4)]
