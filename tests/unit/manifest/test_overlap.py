"""What is both trained on and evaluated is found by its contents, wherever it lies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.files import write_jsonl
from kimi_audio_ft.manifest.manifest import read_manifest
from kimi_audio_ft.manifest.overlap import Overlap, overlap_of
from kimi_audio_ft.manifest.several import Conversations
from tests.unit.conftest import answer, audio, line, user

Make = Callable[..., Conversations]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a manifest with a conversation for every dict of an audio message's keys; numbered contents are files."""

    def write(name: str, *messages: dict[str, Any], group: str | None = None, root: str = ".") -> Conversations:
        rows = [
            line(f"{name}{number}", user("转录"), audio("", audio_tokens=[7]) | message, answer("好"))
            | ({} if group is None else {"group": group})
            for number, message in enumerate(messages)
        ]
        folder = tmp_path / root
        folder.mkdir(exist_ok=True)
        for message in messages:
            if message.get("content", "x")[0].isdigit():
                samples = np.random.default_rng(int(message["content"][0])).normal(0, 0.1, 800)
                soundfile.write(folder / message["content"], samples, 16000)
        write_jsonl(folder / f"{name}.jsonl", rows)
        return Conversations((read_manifest(folder / f"{name}.jsonl"),))

    return write


def test_a_recording_is_found_under_another_name(make: Make) -> None:
    train = make("train", {"content": "1.wav"}, {"content": "2.wav"}, {"content": "3.wav"}, root="here")
    held = make("eval", {"content": "4.wav"}, {"content": "2-copy.wav"}, root="there")
    found = overlap_of(train, held)
    message = (
        r"^.*here/train\.jsonl:2: trains on a recording that is evaluated, .*there/eval\.jsonl:2 \(2\.wav\)\. "
        r"Take them out of one of the manifests, or set data\.allow_overlap=true"
    )
    with pytest.raises(DataError, match=message):
        found.refuse()
    assert found.facts == {"overlap": {"utterances": 1, "groups": []}}
    apart = overlap_of(train, make("other", {"content": "4.wav"}))
    apart.refuse()
    assert apart == Overlap([], 1, []) and apart.facts == {}


def test_all_are_counted_and_a_few_are_named(make: Make) -> None:
    some = [{"content": f"{number}.wav"} for number in range(1, 7)]
    found = overlap_of(make("train", *some[::-1]), make("eval", *some[:5]))
    with pytest.raises(DataError, match=r"train\.jsonl:6: .*5 of 5 evaluated utterances.*also \S*train\.jsonl:5 and "):
        found.refuse()
    assert len(found.pairs) == 5


@pytest.mark.parametrize(
    ("mine", "theirs", "shared"),
    [
        ({"start": 0.0, "end": 0.02}, {"start": 0.02, "end": 0.05}, False),
        ({"start": 0.0, "end": 0.03}, {"start": 0.02, "end": 0.05}, True),
        ({}, {"start": 0.02, "end": 0.03}, True),
        ({"channel": 0}, {"channel": 1}, False),
        ({"channel": 1}, {"channel": 1}, True),
        ({"channel": 1}, {}, True),
    ],
)
def test_pieces_of_a_recording_are_compared(
    make: Make, mine: dict[str, Any], theirs: dict[str, Any], shared: bool
) -> None:
    found = overlap_of(make("train", {"content": "1.wav"} | mine), make("eval", {"content": "1.wav"} | theirs))
    assert bool(found.pairs) == shared


def test_without_recordings_the_codes_are_compared(make: Make) -> None:
    train = make("train", {"audio_tokens": [1, 2]}, {"audio_tokens": [3, 4], "content": "gone.wav"})
    found = overlap_of(train, make("eval", {"audio_tokens": [5]}, {"audio_tokens": [3, 4]}))
    assert [(one.row, other.row) for one, other in found.pairs] == [(1, 1)]


def test_every_part_is_compared_with_every_part(make: Make) -> None:
    one, two = make("one", {"content": "1.wav"}), make("two", {"content": "2.wav"}, {"content": "3.wav"})
    a, b = make("a", {"content": "4.wav"}, {"content": "3.wav"}), make("b", {"content": "1.wav"})
    found = overlap_of(Conversations(one.parts + two.parts), Conversations(a.parts + b.parts))
    assert [(one.recording, str(other).rpartition("/")[2]) for one, other in found.pairs] == [
        *(("3.wav", "a.jsonl:2"), ("1.wav", "b.jsonl:1")),
    ]
    assert overlap_of(Conversations(one.parts + two.parts).select(np.array([0])), a).pairs == []


def test_groups_are_compared_unless_they_are_only_the_ids(make: Make) -> None:
    train = make("train", {"content": "1.wav"}, group="monday")
    held = make("eval", {"content": "2.wav"}, group="monday")
    assert overlap_of(train, held).facts == {"overlap": {"utterances": 0, "groups": ["monday"]}}
    alike = [make("x", {"content": f"{number}.wav"}, group="x0", root=f"folder{number}") for number in (1, 2)]
    assert overlap_of(*alike).groups == []
