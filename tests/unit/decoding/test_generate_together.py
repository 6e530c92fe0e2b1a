"""Several samplings of the same prompts go on from one prefill, and each gives what it gives alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import pytest
import torch

from kimi_audio_ft.config.train import DecodingConfig
from kimi_audio_ft.data.dataset import Sample, make_batch
from kimi_audio_ft.decoding import generate
from kimi_audio_ft.decoding.generate import SETTINGS_AT_ONCE, generate_texts
from kimi_audio_ft.model import KimiAudioForCausalLM

PAD, BLANK, EOS, NO_EOS = 0, 1, 13, -1

# A setting, and the seed of every utterance.
Sampling = tuple[DecodingConfig, Sequence[int]]


def sampling(temperature: float, top_k: int = 0, first_seed: int = 0, **settings: Any) -> Sampling:
    decoding = DecodingConfig(temperature, top_k, **{"max_new_tokens": 10} | settings)
    return decoding, range(first_seed, first_seed + 6)


MANY = [
    *(sampling(t, k, seed) for t, k, seed in product((2.0, 0.0, 0.3, 1.0), (0, 5), (10, 40, 70))),
    sampling(1.0, 5, 10, text_repetition_penalty=1.2, text_repetition_window_size=2),
    sampling(1.0, 5, 10, max_new_tokens=3),
    sampling(0.0, max_new_tokens=12, text_repetition_penalty=1.5, text_repetition_window_size=1),
]


def together(
    model: torch.nn.Module, samples: list[Sample], samplings: list[Sampling], eos: int = EOS
) -> list[list[list[int]]]:
    settings, seeds = zip(*samplings, strict=True)
    return generate_texts(model, make_batch(samples, PAD, left=True)["inputs"], settings, seeds, eos, BLANK)


def alone(model: torch.nn.Module, samples: list[Sample], one: Sampling, eos: int = EOS) -> list[list[int]]:
    inputs = make_batch(samples, PAD, left=True)["inputs"]
    return generate_texts(model, inputs, [one[0]], [one[1]], eos, BLANK)[0]


@contextmanager
def rows_per_pass(model: KimiAudioForCausalLM) -> Iterator[list[int]]:
    rows: list[int] = []
    hook = model.lm_head.register_forward_hook(lambda _, args, out: rows.append(out.shape[0]))
    yield rows
    hook.remove()


@pytest.mark.slow
def test_each_sampling_is_as_alone(model: KimiAudioForCausalLM, samples: list[Sample]) -> None:
    assert len(MANY) > 3 * SETTINGS_AT_ONCE
    separate = [alone(model, samples, one) for one in MANY]
    assert together(model, samples, MANY) == separate
    assert together(model, samples, MANY[::-1]) == separate[::-1], "whatever their order"
    for index, sample in enumerate(samples[:3]):
        of_one = together(model, [sample], [(setting, [seeds[index]]) for setting, seeds in MANY])
        assert of_one == [[texts[index]] for texts in separate]
    lengths = {len(text) for texts in separate for text in texts}
    assert len(lengths) > 4 and len({str(texts) for texts in separate}) > len(MANY) / 2, "answers must be ragged"


@pytest.mark.slow
def test_a_cache_that_was_used_up_gives_other_answers(
    model: KimiAudioForCausalLM, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the copy that later samplings start from."""
    separate = [alone(model, samples, one, NO_EOS) for one in MANY]
    assert together(model, samples, MANY, NO_EOS) == separate
    monkeypatch.setattr(generate.copy, "deepcopy", lambda cache: cache)
    try:
        spoilt = together(model, samples, MANY, NO_EOS)
    except (RuntimeError, IndexError):
        return  # not even the shapes fit
    assert spoilt != separate


def test_paths_that_say_the_same_share_a_row(model: KimiAudioForCausalLM, samples: list[Sample]) -> None:
    greedy = sampling(0.0)
    with rows_per_pass(model) as single:
        expected = alone(model, samples, greedy, NO_EOS)
    nearly_greedy = [greedy, sampling(1e-4, 5), sampling(1.0, 1), sampling(0.0, max_new_tokens=4)]
    with rows_per_pass(model) as shared:
        texts = together(model, samples, nearly_greedy, NO_EOS)
    assert shared == single == [6] * 10
    assert texts == [expected, expected, expected, [text[:4] for text in expected]]


def test_rows_fork_and_leave(model: KimiAudioForCausalLM, samples: list[Sample]) -> None:
    hot = [sampling(2.0, 0, seed) for seed in (10, 40, 70)]
    with rows_per_pass(model) as rows:
        texts = together(model, samples, hot)
    for step, count in enumerate(rows):
        # An answer of n tokens takes part in n + 1 passes, the last of which gave its end.
        alive = [{tuple(text[:step]) for text in of_one if len(text) >= step} for of_one in zip(*texts, strict=True)]
        assert count == sum(len(prefixes) for prefixes in alive)
    assert rows[0] == 6 and 12 < max(rows) <= 18 and rows[-1] < max(rows)


def test_no_more_rows_at_once_than_said(model: KimiAudioForCausalLM, samples: list[Sample]) -> None:
    hot = [sampling(8.0, 0, 100 * number) for number in range(SETTINGS_AT_ONCE + 3)]
    with rows_per_pass(model) as rows:
        together(model, samples, hot, NO_EOS)
    assert 6 * (SETTINGS_AT_ONCE - 1) < max(rows) <= 6 * SETTINGS_AT_ONCE
    assert len(rows) == 1 + 2 * 9, "one prefill, then two groups of nine more tokens"
