"""Manifests as dataloaders: what a training step sees, whatever reads it, and what is refused before training."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from kimi_audio_ft.config.train import AugmentConfig
from kimi_audio_ft.data.datamodule import BatchRules, ConversationData, ResumableLoader
from kimi_audio_ft.data.together import DataTogether
from kimi_audio_ft.errors import ChangedError, ConfigError, DataError
from kimi_audio_ft.manifest.audio import AudioError
from kimi_audio_ft.model import WhisperFeatureExtractor
from kimi_audio_ft.model.audio_frontend import num_audio_tokens
from kimi_audio_ft.store.digests import file_digest
from tests.unit.conftest import Tiny, rewrite

Make = Callable[..., ConversationData]
NAMES = {"short", "long", "two audios", "turns", "no audio", "five", "six", "seven"}


def same(left: Any, right: Any) -> bool:
    """Equal to the last bit, through dicts and lists of tensors."""
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def flat(steps: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The micro-batches of all steps."""
    return [batch for step in steps for batch in step]


def names(batches: Iterable[dict[str, Any]]) -> list[list[str]]:
    return [batch["ids"] for batch in batches]


def test_an_epoch_holds_every_conversation_once(make_data: Make) -> None:
    data = make_data()
    steps = list(data.train_dataloader())
    batches = flat(steps)
    assert sorted(name for batch in names(batches) for name in batch) == sorted(NAMES)
    assert len(steps) == len(data.train_dataloader()) == data.num_steps(1, -1) == -(-len(batches) // 2)
    assert [batch["number"] for batch in batches] == list(range(len(batches)))
    for batch in batches:
        inputs = batch["inputs"]
        positions = inputs["input_ids"].shape
        assert all(inputs[name].shape == positions for name in ("text_input_ids", "attention_mask"))
        assert batch["text_loss_mask"].any(dim=1).all()
        codes = int(inputs["is_continuous_mask"].sum())
        assert sum(len(rows) for rows in inputs["audio_features"]) == codes


def test_the_token_budget_cuts_batches(make_data: Make) -> None:
    data = make_data(max_batch_tokens=60, batch_size=8)
    for loader in (data.train_dataloader(), data.validation_batches()):
        shapes = [batch["inputs"]["input_ids"].shape for batch in flat(loader)]
        assert sum(rows for rows, _ in shapes) == len(NAMES) and len(shapes) > 1
        assert all(rows * length <= 60 or rows == 1 for rows, length in shapes)


def test_the_budget_holds_for_slowed_speech(make_data: Make) -> None:
    data = make_data(max_batch_tokens=110, batch_size=8, augment=AugmentConfig(speeds=[0.5]))
    shapes = [batch["inputs"]["input_ids"].shape for batch in flat(data.train_dataloader())]
    assert max(rows for rows, _ in shapes) > 1
    assert all(rows * length <= 110 or rows == 1 for rows, length in shapes)


def test_every_epoch_has_its_own_order(make_data: Make) -> None:
    data = make_data(batch_size=1)
    orders = []
    for epoch in range(3):
        data.trainer = type("AtEpoch", (), {"current_epoch": epoch})()  # type: ignore[assignment]
        orders.append(names(flat(data.train_dataloader())))
    assert orders[0] != orders[1] != orders[2]
    assert all(sorted(order) == sorted([name] for name in NAMES) for order in orders)
    assert data.num_steps(3, -1) == 12 and data.num_steps(3, 5) == 5 and data.num_steps(1, 5) == 4


def test_the_seed_decides(make_data: Make) -> None:
    def order(seed: int) -> list[list[str]]:
        rules = BatchRules(2, "sample", seed)
        return names(flat(make_data(rules, batch_size=1, features="none").train_dataloader()))

    assert order(5) == order(5) != order(6)


def test_a_perturbation_given_twice_is_given_once(make_data: Make) -> None:
    """Drawn from two values, it would leave other random numbers to the masks."""
    masks = {"time_masks": 2, "channel_masks": 2}
    once = make_data(augment=AugmentConfig(speeds=[0.9], **masks))
    twice = make_data(augment=AugmentConfig(speeds=[0.9, 0.9], gains_db=[0.0, 0.0], **masks))
    assert same(list(once.train_dataloader()), list(twice.train_dataloader()))
    unmasked = make_data(augment=AugmentConfig(speeds=[0.9]))
    assert not same(list(once.train_dataloader()), list(unmasked.train_dataloader()))


@pytest.mark.parametrize("features", ["cached", "online"])
def test_workers_change_nothing(make_data: Make, sounds: dict[str, Any], features: str) -> None:
    masks = {"time_masks": 1, "channel_masks": 1} if features == "cached" else {}
    augment = AugmentConfig(speeds=[0.9, 1.0], **masks, noise_folder=sounds["noise_folder"], versions=1)
    alone = make_data(features=features, augment=augment)
    shared = make_data(features=features, augment=augment, num_workers=2)
    assert same(list(alone.train_dataloader()), list(shared.train_dataloader()))


def test_members_of_a_pack_with_own_data_share_one_set_of_workers(make_data: Make) -> None:
    """However many they are, as many processes start; each member has the steps that it has alone, also resumed."""
    members = {name: make_data(BatchRules(2, "sample", seed), features="none") for name, seed in (("a", 5), ("b", 6))}
    alone = {name: list(data.train_dataloader()) for name, data in members.items()}
    assert not same(alone["a"], alone["b"])
    for data in members.values():
        data.settings.num_workers = 2
    before = set(multiprocessing.active_children())
    loader = DataTogether(members).train_dataloader()
    steps = iter(loader)
    found = [next(steps)]
    assert len(set(multiprocessing.active_children()) - before) == 2
    resumed = DataTogether(members).train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    found += steps
    assert len(found) == len(loader) == len(alone["a"]) > 1
    for name, own in alone.items():
        assert same([step[name] for step in found], own)
    assert same(list(resumed), found[1:])


def test_ranks_of_a_sharded_base_take_equally_many_passes(make_data: Make) -> None:
    """Each has its own conversations in them, once with their weight; what only keeps step with the others has none."""
    augment = AugmentConfig(speeds=[0.9, 1.0])
    rules = [BatchRules(2, "sample", 5, rank=rank, ranks=2) for rank in (0, 1)]
    ranks = [make_data(one, batch_size=2, augment=augment) for one in rules]
    alone = [list(data.train_dataloader()) for data in ranks]
    for most in (1, 45, 70, 10_000):
        for data in ranks:
            data.pass_positions, data.passes_together = most, True
        together = [list(data.train_dataloader()) for data in ranks]
        assert [len(step) for step in together[0]] == [len(step) for step in together[1]]
        assert any(len(step) > 1 for step in together[0]) == (most < 10_000)
        for own, before in zip(together, alone, strict=True):
            assert list(map(weighted, own)) == list(map(weighted, before))
            sizes = [(len(batch["ids"]), batch["text_labels"].numel()) for batch in flat(own)]
            assert all(count == 1 or size <= most for count, size in sizes)


def test_passes_that_encode_recordings_themselves_have_each_at_its_place(make_data: Make) -> None:
    data = make_data(features="online")
    data.pass_positions = 10_000
    for step in data.train_dataloader():
        [batch] = step
        inputs = batch["inputs"]
        assert [num_audio_tokens(len(one)) for one in inputs["waveforms"]] == list(inputs["audio_lengths"])
        assert sum(inputs["audio_lengths"]) == len(inputs["audio_places"])


def weighted(step: list[dict[str, Any]]) -> dict[str, float]:
    """Weights of the conversations that have some."""
    found = [(name, batch["weight"]) for batch in step if batch["weight"] for name in batch["ids"]]
    assert len(dict(found)) == len(found), "each is there once"
    return dict(found)


def test_the_three_kinds_of_features(make_data: Make, tiny: Tiny) -> None:
    """The same batches but for the features: read, computed by the model's own encoder, or left out."""
    cached, online, none = (flat(make_data(features=kind).train_dataloader()) for kind in ("cached", "online", "none"))
    whisper = WhisperFeatureExtractor.from_pretrained(tiny.encoders().files.whisper)
    for with_rows, with_sound, without in zip(cached, online, none, strict=True):
        features = with_rows["inputs"].pop("audio_features")
        waveforms = with_sound["inputs"].pop("waveforms")
        assert with_sound["inputs"].pop("audio_features") is None is without["inputs"].pop("audio_features")
        assert same(with_rows, with_sound) and same(with_rows, without)
        for rows, computed in zip(features, whisper.encode(waveforms), strict=True):
            torch.testing.assert_close(rows, computed, atol=1e-6, rtol=1e-6)


def test_validation_sees_the_evaluation_set_unperturbed(make_data: Make, tiny: Tiny) -> None:
    augment = AugmentConfig(speeds=[0.8], time_masks=2, channel_masks=2)
    perturbed, plain = make_data(augment=augment), make_data()
    batches = flat(perturbed.validation_batches())
    assert same(batches, flat(plain.validation_batches()))
    assert {name for batch in names(batches) for name in batch} == NAMES
    store = tiny.encoders().store()
    by_name = {c.id: c for c in plain.eval_conversations}
    keys = [file_digest(path) for batch in names(batches) for name in batch for path in by_name[name].audio_paths]
    rows = [row for batch in batches for row in batch["inputs"]["audio_features"]]
    assert same(rows, [store.features(key) for key in keys])


def test_too_long_conversations_are_left_out_and_reported(make_data: Make, caplog: pytest.LogCaptureFixture) -> None:
    whole = make_data(features="none")
    lengths = dict(zip([c.id for c in whole.train_set.conversations], whole.train_set.lengths(), strict=True))
    limit = lengths["long"][0]
    with caplog.at_level(logging.WARNING):
        data = make_data(features="none", max_length=limit)
    expected = [
        {"id": c.id, "line": c.line, "positions": lengths[c.id][0]}
        for c in whole.train_set.conversations
        if lengths[c.id][0] > limit
    ]
    assert 0 < len(expected) < len(NAMES) and data.left_out == expected == data.describe()["left_out"]
    assert f"left out {len(expected)} of 8 conversations longer than data.max_length={limit}" in caplog.text
    left = {name for batch in names(flat(data.train_dataloader())) for name in batch}
    assert left == NAMES - {row["id"] for row in expected} and "long" in left
    assert {name for batch in names(flat(data.validation_batches())) for name in batch} == NAMES  # all count
    shortest = min(length for length, _ in lengths.values())
    with pytest.raises(ConfigError, match=rf"data\.max_length=3: .* is longer; the shortest has {shortest}\. Raise it"):
        make_data(features="none", max_length=3)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_loader_goes_on_where_its_checkpoint_was_taken(make_data: Make, sounds: dict[str, Any], rank: int) -> None:
    augment = AugmentConfig(**sounds, noise_probability=1.0, room_probability=1.0, versions=3)
    data = make_data(BatchRules(1, "sample", 5, rank=rank, ranks=2), batch_size=1, augment=augment)
    loader = data.train_dataloader()
    assert isinstance(loader, ResumableLoader) and loader.state_dict() == {"delivered": 0}
    everything, states = [], []
    for step in loader:
        everything.append(step)
        states.append(loader.state_dict())
    assert states == [{"delivered": count} for count in (1, 2, 3, 0)]
    resumed = data.train_dataloader()
    assert isinstance(resumed, ResumableLoader)
    resumed.load_state_dict(states[1])
    rest, delivered = [], []
    for step in resumed:
        rest.append(step)
        delivered.append(resumed.state_dict()["delivered"])
    assert same(rest, everything[2:]) and delivered == [3, 0]


def test_ranks_see_every_conversation_once(make_data: Make) -> None:
    alone = make_data(BatchRules(4, "sample", 5), batch_size=1)
    shares = [make_data(BatchRules(2, "sample", 5, rank=rank, ranks=2), batch_size=1) for rank in (0, 1)]
    loaders = [list(data.train_dataloader()) for data in shares]
    for whole, *parts in zip(alone.train_dataloader(), *loaders, strict=True):
        assert len({len(part) for part in parts}) == 1
        together = sorted((batch for part in parts for batch in part), key=lambda batch: batch["number"])
        assert same(together, whole)


def refused(make_data: Make, expected: str, kind: type[Exception] = DataError, **fields: Any) -> None:
    with pytest.raises(kind, match=expected):
        make_data(**fields)


@pytest.mark.parametrize("option", ["train_manifest", "eval_manifest"])
def test_manifests_must_be_named(make_data: Make, option: str) -> None:
    refused(make_data, rf"data\.{option}='': must name a pretokenized manifest", ConfigError, **{option: ""})
    refused(make_data, r"none\.jsonl: cannot be read", **{option: "none.jsonl"})


@pytest.mark.parametrize("option", ["train_manifest", "eval_manifest"])
@pytest.mark.parametrize("features", ["cached", "online"])
def test_bad_lines_are_refused_before_training(
    make_data: Make, change_line: Callable[..., Path], option: str, features: str
) -> None:
    path = change_line(2, lambda row: row["conversation"][1]["audio_tokens"].pop())
    refused(make_data, r"changed\.jsonl:2: 11 audio_tokens .* gives 12", features=features, **{option: str(path)})


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_recording_that_turns_bad_is_named_whoever_reads_it(
    make_data: Make, change_line: Callable[..., Path], num_workers: int
) -> None:
    path = change_line(2, lambda row: row["conversation"][1].update(content="bad.wav"))
    samples = np.full(14400, 0.1, np.float32)
    soundfile.write(path.parent / "bad.wav", samples, 16000, subtype="FLOAT")
    data = make_data(train_manifest=str(path), features="online", num_workers=num_workers)
    samples[7] = np.nan
    soundfile.write(path.parent / "bad.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"^/.*bad\.wav: 1 of 14400 samples are NaN.*Export the recording again$"):
        list(data.train_dataloader())


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_recording_that_was_replaced_since_setup_is_not_trained_on(
    make_data: Make, change_line: Callable[..., Path], num_workers: int
) -> None:
    """Else a training that is killed later leaves checkpoints of other data than its signature names."""
    path = change_line(2, lambda row: row["conversation"][1].update(content="own.wav"))
    recording, other = path.parent / "own.wav", path.parent / "other.wav"
    for file, level in ((recording, 0.1), (other, 0.2)):
        soundfile.write(file, np.full(14400, level, np.float32), 16000)
    data = make_data(train_manifest=str(path), features="online", num_workers=num_workers)
    assert len(list(data.train_dataloader()))
    rewrite(recording, other.read_bytes())
    with pytest.raises(ChangedError, match=r"own\.wav: changed while it was being read"):
        list(data.train_dataloader())


def test_missing_recordings_and_answers_are_refused(make_data: Make, change_line: Callable[..., Path]) -> None:
    path = change_line(3, lambda row: row["conversation"][2].update(content="clips/none.wav"))
    for features in ("cached", "online"):
        expected = r"changed\.jsonl:3: there is no recording .*none\.wav\. Check the path and data\.audio_root"
        refused(make_data, expected, train_manifest=str(path), features=features)
    assert len(make_data(train_manifest=str(path), features="none").train_set) == 8


def test_a_conversation_without_an_answer_is_refused(make_data: Make, change_line: Callable[..., Path]) -> None:
    path = change_line(4, lambda row: row["conversation"].pop())
    refused(make_data, r"changed\.jsonl:4: does not end with an assistant text message", eval_manifest=str(path))


def test_a_manifest_without_codes_is_refused(make_data: Make, encoded: Path) -> None:
    expected = r"raw\.jsonl:1: message 1: audio_tokens are missing.*kimi_audio_ft\.tokenize"
    refused(make_data, expected, train_manifest=str(encoded / "raw.jsonl"))


@pytest.mark.parametrize("features", ["online", "none"])
def test_masks_need_stored_features(make_data: Make, features: str) -> None:
    for masks in (AugmentConfig(time_masks=1), AugmentConfig(channel_masks=1)):
        expected = rf"data\.features='{features}': masks are put on stored features.*Set data\.features=cached"
        refused(make_data, expected, ConfigError, features=features, augment=masks)


def test_perturbation_needs_recordings(make_data: Make, sounds: dict[str, Any]) -> None:
    expected = r"data\.features='none': recordings cannot be perturbed.*Set data\.augment\.speeds=\[1\.0\]"
    refused(make_data, expected, ConfigError, features="none", augment=AugmentConfig(speeds=[0.9]))
    refused(make_data, expected, ConfigError, features="none", augment=AugmentConfig(**sounds))


def test_prompt_and_audio_root(make_data: Make, encoded: Path, tmp_path: Path, tiny: Tiny) -> None:
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes((encoded / "coded.jsonl").read_bytes())
    expected = r"moved\.jsonl:1: there is no recording .*data\.audio_root"
    refused(make_data, expected, train_manifest=str(moved), eval_manifest=str(moved))
    data = make_data(train_manifest=str(moved), eval_manifest=str(moved), audio_root=str(encoded), prompt="请写")
    assert {m["content"] for c in data.train_set.conversations for m in c.messages
            if m["role"] == "user" and m["message_type"] == "text"} == {"请写"}  # fmt: skip
    assert tiny.tokenizer.encode("请写")[0] in data.train_set[0].layout.text_ids


def test_setup_happens_once(make_data: Make) -> None:
    data = make_data(features="none")
    before = data.train_set
    data.settings = replace(data.settings, train_manifest="none.jsonl")
    data.setup("fit")
    assert data.train_set is before
