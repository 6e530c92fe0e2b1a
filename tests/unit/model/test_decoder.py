"""The two-stream decoder on the embedded model: cache, branch, copies and features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.model import KimiAudioForCausalLM
from kimi_audio_ft.model.decoder import check_features
from kimi_audio_ft.model.places import audio_run_lengths
from kimi_audio_ft.paths import TINY_MODEL

LENGTH, CODES = 12, slice(3, 8)


@pytest.fixture(scope="module")
def model() -> KimiAudioForCausalLM:
    return KimiAudioForCausalLM.from_pretrained(TINY_MODEL)


@pytest.fixture(scope="module")
def streams(model: KimiAudioForCausalLM) -> dict[str, Tensor]:
    """Two rows of both streams; each has one audio."""
    generator, offset = torch.Generator().manual_seed(0), model.config.kimia_token_offset
    is_audio = torch.zeros(2, LENGTH, dtype=torch.bool)
    is_audio[:, CODES] = True
    return {
        "input_ids": torch.randint(offset, model.config.vocab_size, (2, LENGTH), generator=generator),
        "text_input_ids": torch.randint(0, offset, (2, LENGTH), generator=generator),
        "is_continuous_mask": is_audio,
    }


@pytest.fixture(scope="module")
def features(model: KimiAudioForCausalLM) -> list[Tensor]:
    generator, width = torch.Generator().manual_seed(1), model.config.kimia_adaptor_input_dim
    return [torch.randn(CODES.stop - CODES.start, width, generator=generator) for _ in range(2)]


@torch.no_grad()
def test_a_later_position_changes_no_earlier_one(
    model: KimiAudioForCausalLM, streams: dict[str, Tensor], features: list[Tensor]
) -> None:
    whole = model(**streams, audio_features=features)
    other = {**streams, "text_input_ids": streams["text_input_ids"].clone()}
    other["text_input_ids"][:, 9] += 1
    changed = model(**other, audio_features=features)
    for one, two in ((whole.text_logits, changed.text_logits), (whole.audio_logits, changed.audio_logits)):
        torch.testing.assert_close(one[:, :9], two[:, :9])
        assert (one[:, 9:] - two[:, 9:]).abs().amax(dim=-1).min() > 1e-4


@torch.no_grad()
def test_steps_with_a_cache_are_one_pass(
    model: KimiAudioForCausalLM, streams: dict[str, Tensor], features: list[Tensor]
) -> None:
    whole = model(**streams, audio_features=features)
    prefix = {name: stream[:, :9] for name, stream in streams.items()}
    out = model(**prefix, audio_features=features, use_cache=True)
    text, audio = [out.text_logits], [out.audio_logits]
    for at in range(9, LENGTH):
        step = {name: stream[:, at : at + 1] for name, stream in streams.items()}
        out = model(**step, past_key_values=out.past_key_values)
        text.append(out.text_logits)
        audio.append(out.audio_logits)
    torch.testing.assert_close(torch.cat(text, dim=1), whole.text_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat(audio, dim=1), whole.audio_logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_without_the_branch_text_stays_and_the_branch_is_refused(
    model: KimiAudioForCausalLM, streams: dict[str, Tensor]
) -> None:
    alone = KimiAudioForCausalLM.from_pretrained(TINY_MODEL, audio_branch=False)
    out = alone(**streams, audio_branch=False)
    assert out.audio_logits is None and not [name for name in alone.state_dict() if "mimo" in name]
    torch.testing.assert_close(out.text_logits, model(**streams).text_logits)
    with pytest.raises(UserError, match="read it with audio_branch=True"):
        alone(**streams)


@torch.no_grad()
def test_text_positions_and_copies_select_rows(
    model: KimiAudioForCausalLM, streams: dict[str, Tensor], features: list[Tensor]
) -> None:
    whole = model(**streams, audio_features=features).text_logits
    positions = torch.zeros(2, LENGTH, dtype=torch.bool)
    positions[0, 10], positions[1, 11] = True, True
    rows = model(**streams, audio_features=features, text_positions=positions, copies=2, audio_branch=False).text_logits
    expected = torch.stack([whole[0, 10], whole[1, 11]] * 2)
    torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-4)


def test_features_join_codes_by_the_published_formula(
    model: KimiAudioForCausalLM, streams: dict[str, Tensor], features: list[Tensor]
) -> None:
    audio, text, mask = streams.values()
    inner = model.model
    joined, plain = inner.embed(audio, text, mask, features), inner.embed(audio, text, mask, None)
    codes, words = inner.embed_tokens(audio), inner.embed_tokens(text)
    torch.testing.assert_close(plain, codes + words)
    torch.testing.assert_close(joined[~mask], plain[~mask])
    expected = (codes[mask] + inner.vq_adaptor(torch.cat(features))) * 2**0.5 + words[mask]
    torch.testing.assert_close(joined[mask], expected)


def test_runs_of_audio_codes_are_counted_row_by_row() -> None:
    mask = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    assert audio_run_lengths(mask) == [2, 1, 1]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([2], "1 feature tensors for 2 audios"),
        ([2, 1, 1], "3 feature tensors for 2 audios"),
        ([], "0 feature tensors for 2 audios"),
        ([2, 2], r"audio_features\[1\]: shape \(2, 5\) for an audio of 1 codes"),
    ],
)
def test_features_that_do_not_fit_the_codes_are_refused(rows: list[int], said: str) -> None:
    mask = torch.tensor([[True, True, False, True]])
    check_features(audio_run_lengths(mask), [torch.zeros(2, 5), torch.zeros(1, 5)])
    with pytest.raises(UserError, match=said):
        check_features(audio_run_lengths(mask), [torch.zeros(count, 5) for count in rows])
