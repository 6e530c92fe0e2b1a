"""Parts of a training set: exact in size, nested, whole recordings, and the same whatever the file's order."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.files import write_jsonl
from kimi_audio_ft.manifest import index
from kimi_audio_ft.manifest.manifest import read_manifest
from kimi_audio_ft.manifest.several import Conversations, training_subset
from tests.unit.conftest import answer, audio, line

RECORDINGS, SEGMENTS = 12, 5


def write(path: Path, names: list[str], grouped: bool = True) -> Conversations:
    rows = [line(name, audio(f"{name}.wav"), answer("好")) for name in names]
    write_jsonl(path, [row | ({"group": row["id"].split("-")[0]} if grouped else {}) for row in rows])
    return Conversations((read_manifest(path),))


@pytest.fixture
def names() -> list[str]:
    return [f"meeting{recording}-{segment}" for recording in range(RECORDINGS) for segment in range(SEGMENTS)]


@pytest.fixture
def manifest(tmp_path: Path, names: list[str]) -> Conversations:
    return write(tmp_path / "m.jsonl", names)


def ids(manifest: Conversations, size: int | None, seed: int = 1) -> list[str]:
    return [conversation.id for conversation in training_subset(manifest, size, seed)]


def test_sizes_are_exact_and_smaller_sets_lie_inside_larger_ones(manifest: Conversations, names: list[str]) -> None:
    before: set[str] = set()
    for size in range(1, len(names) + 1):
        some = ids(manifest, size)
        assert len(some) == len(set(some)) == size and before < set(some)
        assert some == [name for name in names if name in some]  # in the order of the file
        before = set(some)


def test_all_of_them_is_the_manifest(manifest: Conversations, names: list[str]) -> None:
    assert training_subset(manifest, None, 1) is manifest
    assert ids(manifest, len(names)) == names


@pytest.mark.parametrize("size", [7, 20, 33])
def test_recordings_are_taken_whole_but_the_last(manifest: Conversations, size: int) -> None:
    taken = Counter(name.split("-")[0] for name in ids(manifest, size))
    assert len(taken) == -(-size // SEGMENTS)
    assert sum(count < SEGMENTS for count in taken.values()) == (size % SEGMENTS > 0)


def test_the_seed_decides_and_the_order_of_the_file_does_not(
    manifest: Conversations, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = ids(manifest, 13)
    assert ids(manifest, 13, seed=2) != some
    assert some != names[:13]
    random.Random(1).shuffle(names)
    monkeypatch.setattr(index, "FEWEST_CHUNKS", 1)  # by several processes
    assert sorted(ids(write(tmp_path / "other.jsonl", names), 13)) == sorted(some)
    # recordings that are added change who is in a small set only by being in it themselves
    more = write(tmp_path / "more.jsonl", [*names, *(f"new{number}-0" for number in range(3))])
    kept = [name for name in ids(more, 16) if not name.startswith("new")]
    assert set(kept) <= set(ids(manifest, 16))


def test_without_groups_every_conversation_is_a_recording(tmp_path: Path, names: list[str]) -> None:
    taken = ids(write(tmp_path / "m.jsonl", names, grouped=False), 12)
    assert len({name.split("-")[0] for name in taken}) > 12 / SEGMENTS + 2


def test_more_than_there_are_is_refused(manifest: Conversations) -> None:
    with pytest.raises(ConfigError, match=r"^data\.train_subset=61: .*m\.jsonl holds 60 conversations\. Use fewer"):
        training_subset(manifest, 61, 1)
