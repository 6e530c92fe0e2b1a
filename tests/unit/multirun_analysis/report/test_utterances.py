"""Recordings as data URIs, within a budget."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kimi_audio_ft.manifest.part import WHOLE, Part
from multirun_analysis import load_sweep
from multirun_analysis.report.utterances import (
    LONGEST_SECONDS,
    EmbeddedAudio,
    MarkedText,
    embedded,
    mark,
    shortened,
    worst_utterances,
)
from tests.report_page import page_of


def recording(path: Path, seconds: float = 2.0, rate: int = 16_000, channels: int = 1) -> Path:
    """A hum under noise, of which a codec cannot make nothing."""
    time = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(0).normal(0, 0.05, time.size)
    samples = 0.3 * np.sin(2 * np.pi * 220 * time) + noise
    soundfile.write(path, np.repeat(samples[:, None], channels, axis=1), rate)
    return path


def decoded(clip: EmbeddedAudio) -> tuple[np.ndarray, int]:
    assert clip.uri is not None
    kind, _, data = clip.uri.partition(";base64,")
    assert kind == "data:audio/mpeg"
    return soundfile.read(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2), (8_000, 1)])
def test_a_recording_is_kept_audible_and_small(tmp_path: Path, rate: int, channels: int) -> None:
    path = recording(tmp_path / "a.wav", 2.0, rate, channels)
    (clip,) = embedded([(path, WHOLE)])
    samples, heard = decoded(clip)
    assert heard == 16_000 and samples.ndim == 1
    assert abs(len(samples) / heard - 2.0) < 0.2
    spectrum = np.abs(np.fft.rfft(samples))
    assert abs(np.argmax(spectrum) * heard / len(samples) - 220) < 3
    assert len(clip.uri or "") < 2.0 * 7_000  # 5 kB a second and its base64


def test_what_cannot_be_played_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF nothing")
    long = recording(tmp_path / "long.wav", LONGEST_SECONDS + 1, 8_000)
    found = embedded([(path, WHOLE) for path in (None, tmp_path / "gone.wav", tmp_path / "broken.wav", long)])
    assert [clip.why_not for clip in found] == [None, "audio.missing", "audio.unreadable", "audio.too_long"]
    assert all(clip.uri is None for clip in found)
    lacking = embedded([(long, Part(50, 51)), (long, Part(0, 1, 1))])
    assert [clip.why_not for clip in lacking] == ["audio.unreadable"] * 2


def test_only_the_part_of_a_recording_is_embedded(tmp_path: Path, sweep) -> None:
    time = np.arange(3 * 8_000) / 8_000
    tones = np.stack([0.3 * np.sin(2 * np.pi * pitch * time) for pitch in (220, 440)], axis=1)
    tones[: 2 * 8_000, 1] = 0
    soundfile.write(tmp_path / "a.wav", tones, 8_000)
    row = {"id": "a", "reference": "你好", "hypothesis": "你", "audio": str(tmp_path / "a.wav")}
    sweep.heard(sweep.trial(0) / "utterances.jsonl", [row | {"start": 2, "end": 2.75, "channel": 1}])
    (mistake,) = worst_utterances(load_sweep(sweep.folder).best.trial)
    (clip,) = embedded([(mistake.audio, mistake.part)])
    samples, heard = decoded(clip)
    assert abs(len(samples) / heard - 0.75) < 0.2
    spectrum = np.abs(np.fft.rfft(samples))
    assert abs(np.argmax(spectrum) * heard / len(samples) - 440) < 6
    assert "a.wav · 2.0 to 2.75 s · channel 1" in page_of(sweep.folder)


def test_a_clip_is_encoded_once_for_all_reports_of_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(tmp_path / "store"))
    path = recording(tmp_path / "a.wav")
    without = embedded([(path, WHOLE)])
    assert not (tmp_path / "store").exists()  # a report elsewhere makes no store
    (tmp_path / "store").mkdir()
    assert embedded([(path, WHOLE)]) == embedded([(path, WHOLE)]) == without
    (kept,) = (tmp_path / "store" / "clips").iterdir()
    kept.write_text('"c2hvcnQ="', encoding="utf-8")
    assert embedded([(path, WHOLE)]) == [EmbeddedAudio(uri="data:audio/mpeg;base64,c2hvcnQ=")]
    recording(path, seconds=3.0)  # another recording of the same name
    assert len(embedded([(path, WHOLE)])[0].uri or "") > len(without[0].uri or "")


def test_the_budget_ends_with_the_clip_that_no_longer_fits(tmp_path: Path) -> None:
    paths = [recording(tmp_path / f"{number}.wav", seconds) for number, seconds in enumerate((1.0, 3.0, 1.0))]
    clips = [(path, WHOLE) for path in paths]
    lengths = [len(clip.uri or "") for clip in embedded(clips)]
    found = embedded(clips, budget=lengths[0] + lengths[1] - 1)
    assert [clip.why_not for clip in found] == [None, "audio.budget", None]


# The worst utterances, with what differs marked.


def test_differences_are_marked_on_both_sides() -> None:
    left, right = mark("七千万元", "七十万了元")
    assert " ".join(f"{text.kind}:{text.text}" for text in left) == "equal:七 replace:千 equal:万 equal:元"
    assert " ".join(f"{text.kind}:{text.text}" for text in right) == "equal:七 replace:十 equal:万 insert:了 equal:元"
    assert mark("嗯", "") == ([MarkedText("delete", "嗯")], [])


def test_worst_utterances_come_first_once_each_and_without_the_exact_ones(sweep) -> None:
    heard = [("a", 0, "你", 0.5), ("a", 1, "", 1.0), ("b", 0, "你好", 0.0), ("c", 0, "您好", 0.5)]
    keys = ("id", "repeat", "hypothesis", "cer")
    rows = [{"reference": "你好", "audio": None, **dict(zip(keys, row, strict=True))} for row in heard]
    sweep.heard(sweep.trial(0) / "utterances.jsonl", rows)
    worst = worst_utterances(load_sweep(sweep.folder).sweep.trials[0])
    assert [(mistake.identity, mistake.cer) for mistake in worst] == [("a", 1.0), ("c", 0.5)]
    assert worst[0].hypothesis == [] and not math.isnan(worst[0].cer)


def test_a_text_without_end_is_cut_and_says_so(sweep) -> None:
    row = {"id": "a", "repeat": 0, "reference": "今天", "hypothesis": "今天" + "天气" * 5000, "cer": 5000.0}
    sweep.heard(sweep.trial(0) / "utterances.jsonl", [row])
    (mistake,) = worst_utterances(load_sweep(sweep.folder).best.trial)
    *shown, cut = mistake.hypothesis
    assert sum(len(piece.text) for piece in shown) == 400 and cut == MarkedText("cut", "9,602")
    assert shortened([MarkedText("equal", "你好")], most=2) == [MarkedText("equal", "你好")]
    page = page_of(sweep.folder)
    assert "… 9,602 more characters" in page and "天气" * 1000 not in page
