"""Conversations as samples: features that fit their codes, perturbation and masks drawn from seed, epoch and id."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kimi_audio_ft.config.train import AugmentConfig
from kimi_audio_ft.data.dataset import AudioSource, ConversationDataset, Draw
from kimi_audio_ft.errors import DataError
from kimi_audio_ft.features.encode import encode_missing
from kimi_audio_ft.features.perturbation import Perturbation, Perturbations
from kimi_audio_ft.files import read_jsonl, write_jsonl
from kimi_audio_ft.manifest.manifest import read_manifest
from kimi_audio_ft.store.digests import file_digest
from kimi_audio_ft.store.features import FeatureStore
from tests.unit.conftest import Corpus, Tiny

Make = Callable[..., ConversationDataset]


@pytest.fixture
def make(corpus: Corpus, tiny: Tiny) -> Make:
    """Makes a dataset over the corpus; ``augment`` are ``AugmentConfig`` fields."""

    def make(mode: str = "cached", augment: dict[str, Any] | None = None, **options: Any) -> ConversationDataset:
        conversations = read_manifest(corpus.coded, tokens=tiny.tokens)
        changes = None if augment is None else Perturbations.of(AugmentConfig(**augment))
        store = tiny.encoders().store()
        if changes is not None:
            store = encode_missing(tiny.encoders(mode == "cached"), conversations, changes.all, progress=False)
        source = AudioSource(mode, store, tiny.tokens.first)
        return ConversationDataset(conversations, tiny.tokenizer, source, changes, **options)

    return make


def code_runs(sample: Any) -> list[list[int]]:
    """The codes of each audio of a sample."""
    runs: list[list[int]] = []
    previous = False
    for is_code, number in zip(sample.layout.is_continuous_mask, sample.layout.audio_ids, strict=True):
        if is_code and not previous:
            runs.append([])
        if is_code:
            runs[-1].append(number)
        previous = is_code
    return runs


def test_cached_samples(make: Make, tiny: Tiny) -> None:
    dataset = make()
    dataset.check_codes()
    store = tiny.encoders().store()
    assert len(dataset) == 8
    for index, conversation in enumerate(dataset.conversations):
        sample = dataset[index]
        keys = [file_digest(path) for path in conversation.audio_paths]
        assert (sample.id, sample.reference, sample.weight) == (conversation.id, conversation.reference, 1.0)
        assert sample.features is not None and len(sample.features) == len(keys)
        assert all(torch.equal(f, store.features(key)) for f, key in zip(sample.features, keys, strict=True))
        assert code_runs(sample) == [[code + tiny.tokens.first for code in store.codes(key)] for key in keys]
    assert [len(dataset[index].features or []) for index in range(8)] == [1, 1, 2, 1, 0, 1, 1, 1]


def test_codes_of_a_recording_that_was_replaced_since_are_refused(corpus: Corpus, tiny: Tiny, tmp_path: Path) -> None:
    """As many codes as before; a few that differ are an encoder's rounding on another device."""
    rows, first = list(read_jsonl(corpus.coded)), tiny.tokens.first

    def sample(changed: slice) -> Any:
        codes = rows[0]["conversation"][1]["audio_tokens"]
        codes[changed] = [first + (code - first + 7) % 50 for code in codes[changed]]
        write_jsonl(tmp_path / "manifest.jsonl", rows)
        conversations = read_manifest(tmp_path / "manifest.jsonl", str(corpus.coded.parent), tokens=tiny.tokens)
        dataset = ConversationDataset(
            conversations, tiny.tokenizer, AudioSource("cached", tiny.encoders().store(), first)
        )
        dataset.check_codes()
        return dataset[0]

    assert sample(slice(0, 1)).features
    with pytest.raises(DataError, match=r"manifest\.jsonl:1: audio_tokens are not those of .*tokenize.* again"):
        sample(slice(None))


def test_every_answer_is_supervised(make: Make, tiny: Tiny) -> None:
    dataset = make("none")
    special = tiny.tokenizer.special_tokens
    for index, wanted in ((0, ["好"]), (3, ["你好", "你好你好"]), (4, ["我很好，谢谢"])):
        layout = dataset[index].layout
        supervised = [number for number, on in zip(layout.text_ids, layout.text_loss_mask, strict=True) if on]
        expected = [[*tiny.tokenizer.encode(text), special["<|im_kimia_text_eos|>"]] for text in wanted]
        assert supervised == [number for answer in expected for number in answer]
    lengths = dataset.lengths().tolist()
    assert lengths == [[len(s.layout), sum(s.layout.text_loss_mask)] for s in (dataset[i] for i in range(8))]


def test_generation_prompts_hold_no_last_answer(make: Make) -> None:
    whole, prompts = make("none"), make("none", for_generation=True)
    for index in range(8):
        layout, prompt = whole[index].layout, prompts[index].layout
        start = len(prompt) - 1
        assert prompt.audio_ids[:start] == layout.audio_ids[:start] and prompts[index].reference
        # What is cut off is one turn: its text, the end of text and the end of the message.
        assert len(layout) - len(prompt) == sum(layout.text_loss_mask[start:]) + 1
    assert sum(prompts[3].layout.text_loss_mask) == sum(whole[3].layout.text_loss_mask[: len(prompts[3].layout)]) > 0


def test_online_samples_hold_waveforms(make: Make) -> None:
    dataset = make("online")
    dataset.check_codes()
    assert [len(waveform) for waveform in dataset[2].waveforms] == [8000, 20800]
    assert dataset[2].features is None and dataset[4].waveforms == []


@pytest.mark.parametrize("mode", ["cached", "online"])
@pytest.mark.parametrize("change", [1, -1])
def test_codes_of_another_length_than_the_audio(
    tiny: Tiny, change_line: Callable[..., Path], mode: str, change: int
) -> None:
    def edit(row: dict[str, Any]) -> None:
        codes = row["conversation"][2]["audio_tokens"]  # the second of two recordings, 1.3 s
        codes[:] = [*codes, codes[0]][: len(codes) + change]

    path = change_line(3, edit)
    source = AudioSource(mode, tiny.encoders().store(), tiny.tokens.first)
    dataset = ConversationDataset(read_manifest(path, tokens=tiny.tokens), tiny.tokenizer, source)
    expected = (
        rf"changed\.jsonl:3: {17 + change} audio_tokens for .*3\.wav, whose audio gives 17\. Run python -m .* again"
    )
    with pytest.raises(DataError, match=expected):
        dataset.check_codes()
    ConversationDataset(dataset.conversations, tiny.tokenizer, AudioSource("none", None, 0)).check_codes()


def test_recordings_that_are_stored_as_perturbed_only(tiny: Tiny, change_line: Callable[..., Path]) -> None:
    """Their unchanged lengths are not in the store; the recordings' headers give them."""
    shutil.rmtree(tiny.encoders().store().folder)

    def check(path: Path) -> None:
        conversations = read_manifest(path, tokens=tiny.tokens)
        slow = encode_missing(tiny.encoders(), conversations, [Perturbation(0.8, 0.0)], progress=False)
        source = AudioSource("cached", slow, tiny.tokens.first)
        changes = Perturbations.of(AugmentConfig(speeds=[0.8]))
        ConversationDataset(conversations, tiny.tokenizer, source, changes).check_codes()

    path = change_line(2, lambda row: None)
    check(path)
    rows = read_jsonl(path)
    rows[1]["conversation"][1]["audio_tokens"].pop()  # 0.9 s
    write_jsonl(path, rows)
    with pytest.raises(DataError, match=r"changed\.jsonl:2: 11 audio_tokens for .*1\.wav, whose audio gives 12\."):
        check(path)


@pytest.mark.parametrize("mode", ["cached", "online"])
def test_perturbed_codes_and_features_belong_together(make: Make, tiny: Tiny, mode: str) -> None:
    dataset = make(mode, {"speeds": [0.8], "gains_db": [-3.0]})
    store: FeatureStore | None = dataset.audio.store
    assert store is not None
    for index in (1, 2, 4):
        sample = dataset[Draw(index, epoch=0)]
        keys = [f"{file_digest(path)}@0.8x-3dB" for path in dataset.conversations[index].audio_paths]
        runs = code_runs(sample)
        assert runs == [[code + tiny.tokens.first for code in store.codes(key)] for key in keys]
        rows = sample.features if mode == "cached" else sample.waveforms
        assert rows is not None and len(rows) == len(runs)
        assert [len(r) if mode == "cached" else -(-len(r) // 1280) for r in rows] == [len(run) for run in runs]
    assert len(code_runs(dataset[1])[0]) == 15  # 0.9 s are 12 codes, 1.125 s are 15


def test_perturbations_are_drawn_from_seed_epoch_and_id(make: Make) -> None:
    speeds = {"speeds": [0.8, 1.0, 1.25]}

    def drawn(seed: int, epochs: range) -> list[list[int]]:
        dataset = make("online", speeds, seed=seed)
        return [[len(dataset[Draw(index, epoch)].waveforms[0]) for index in (0, 1, 5, 6, 7)] for epoch in epochs]

    first = drawn(1, range(6))
    assert drawn(1, range(6)) == first and drawn(2, range(6)) != first
    assert len({tuple(lengths) for lengths in first}) > 3  # epochs differ
    assert {lengths[0] for lengths in first} == {3840, 4800, 6000}  # every factor is drawn
    ratios = [[length / (16000 * s) for length, s in zip(row, (0.3, 0.9, 1.1, 0.4, 0.6), strict=True)] for row in first]
    assert any(len({round(ratio, 3) for ratio in row}) > 1 for row in ratios)  # ids differ
    copies = [len(make("online", speeds, seed=1)[Draw(0, 0, copy=copy)].waveforms[0]) for copy in range(9)]
    assert copies[0] == first[0][0] and len(set(copies)) == 3  # what an epoch takes again is perturbed anew


@pytest.mark.parametrize("mode", ["cached", "online"])
def test_noise_and_rooms_are_drawn_from_seed_epoch_and_id(make: Make, sounds: dict[str, Any], mode: str) -> None:
    """As many codes as without, of the same time, and the features or samples of what was drawn."""

    def drawn(seed: int, epoch: int, order: list[int]) -> dict[int, Tensor]:
        dataset = make(mode, sounds | {"room_probability": 1.0}, seed=seed)
        found = {}
        for index in order:
            sample = dataset[Draw(index, epoch)]
            (found[index],) = sample.features if mode == "cached" else sample.waveforms
            (codes,) = code_runs(sample)
            assert len(codes) == len(code_runs(plain[index])[0])
        return found

    plain, order = make(mode), [0, 1, 5, 6, 7]
    first = drawn(1, 2, order)
    again = drawn(1, 2, order[::-1])
    assert all(torch.equal(first[index], again[index]) for index in order)
    for other in (drawn(2, 2, order), drawn(1, 3, order)):
        assert any(not torch.equal(first[index], other[index]) for index in order)


def masked(rows: Tensor, original: Tensor) -> tuple[list[int], list[int]]:
    """Frames and channels that are zero throughout; everything else must be the original's."""
    frames, channels = ((~rows.any(dim=axis)).nonzero().flatten().tolist() for axis in (1, 0))
    expected = original.clone()
    expected[frames] = 0
    expected[:, channels] = 0
    assert torch.equal(rows, expected)
    return frames, channels


MASKS = {"time_masks": 1, "time_mask_frames": 3, "channel_masks": 1, "channel_mask_width": 5}


def test_masks_are_spans_of_at_most_their_width(make: Make) -> None:
    plain, dataset = make(), make(augment=MASKS)
    original = (plain[3].features or [])[0]
    widths: set[tuple[int, int]] = set()
    starts: set[int] = set()
    for epoch in range(60):
        rows = (dataset[Draw(3, epoch)].features or [])[0]
        frames, channels = masked(rows, original)
        assert frames == list(range(frames[0], frames[0] + len(frames))) if frames else True
        assert channels == list(range(channels[0], channels[0] + len(channels))) if channels else True
        widths.add((len(frames), len(channels)))
        starts |= set(frames[:1])
    assert {frames for frames, _ in widths} == {0, 1, 2, 3} and {width for _, width in widths} == {0, 1, 2, 3, 4, 5}
    assert len(starts) > 4


def test_masks_are_drawn_from_seed_epoch_and_id(make: Make) -> None:
    def drawn(seed: int, epoch: int, order: list[int]) -> dict[int, Tensor]:
        dataset = make(augment=MASKS, seed=seed)
        return {index: (dataset[Draw(index, epoch)].features or [])[0] for index in order}

    first = drawn(1, 2, [1, 3, 5])
    state = torch.random.get_rng_state()
    again = drawn(1, 2, [5, 1, 3])
    assert all(torch.equal(first[index], again[index]) for index in first)
    assert torch.equal(torch.random.get_rng_state(), state)  # dropout draws from the global generator
    for other in (drawn(2, 2, [1, 3, 5]), drawn(1, 3, [1, 3, 5])):
        assert any(not torch.equal(first[index], other[index]) for index in first)


def test_no_masks_by_default(make: Make) -> None:
    plain, dataset = make(), make(augment={})
    for index in range(8):
        rows, expected = dataset[Draw(index, 5)].features or [], plain[index].features or []
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(rows, expected, strict=True))


def test_masks_of_bf16_rows_keep_to_their_width(tiny: Tiny, corpus: Corpus, tmp_path: Path) -> None:
    """bf16 counts 256, 258, 260, ...: positions counted in it would mask other spans than were drawn."""
    line = next(iter(read_jsonl(corpus.coded)))
    line["conversation"][1]["audio_tokens"] = [tiny.tokens.first] * 400
    write_jsonl(tmp_path / "long.jsonl", [line])
    conversations = read_manifest(tmp_path / "long.jsonl", str(corpus.coded.parent), tokens=tiny.tokens)
    store = FeatureStore({"speech_tokenizer": "long"}, dim=500, dtype=torch.bfloat16)
    rows = torch.ones(400, 500, dtype=torch.bfloat16)
    store.add([(file_digest(conversations[0].audio_paths[0]), [0] * 400, rows)])
    augment = AugmentConfig(time_masks=1, time_mask_frames=3, channel_masks=1, channel_mask_width=3)
    source = AudioSource("cached", store, tiny.tokens.first)
    dataset = ConversationDataset(conversations, tiny.tokenizer, source, Perturbations.of(augment))
    for epoch in range(40):
        features = (dataset[Draw(0, epoch)].features or [])[0]
        frames, channels = masked(features, rows)
        assert features.dtype == torch.bfloat16 and len(frames) <= 3 and len(channels) <= 3
