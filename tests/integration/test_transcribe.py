"""Recordings to texts as a person types it: the texts of evaluation, at any length, resumed, and back into a corpus."""

from __future__ import annotations

import json
import re
import shutil
from importlib.util import find_spec
from itertools import chain, cycle, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from kimi_audio_ft.features.tokenize import tokenize
from kimi_audio_ft.files import read_jsonl
from tests.integration.conftest import Outcome, Workplace
from tests.silero import hear_no_speech, hide_silero

pytestmark = pytest.mark.slow
TRANSCRIBE = "kimi_audio_ft.transcribe"
OPTIONS = ("decoding.max_new_tokens=8", "progress=false", "threads=1")


@pytest.fixture(scope="module")
def references(place: Workplace) -> list[dict[str, Any]]:
    """Lines of the evaluation set."""
    return read_jsonl(place.folder / "data" / "eval.tokens.jsonl")


@pytest.fixture(scope="module")
def calls(place: Workplace, references: list[dict[str, Any]]) -> dict[str, str]:
    """Id by name of the recordings in ``calls``: those of the evaluation set, beside a broken one and a note."""
    names = {}
    for number, line in enumerate(references):
        source = place.folder / "data" / line["conversation"][1]["content"]
        name = f"{'deep/' if number % 2 else ''}{source.name}"
        target = place.folder / "calls" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        names[name] = line["id"]
    (place.folder / "calls" / "broken.wav").write_bytes(b"RIFF, and nothing behind it")
    (place.folder / "calls" / "notes.txt").write_text("not a recording", encoding="utf-8")
    return names


@pytest.fixture(scope="module")
def greedy(first: Path) -> Path:
    """A trial of the sweep that was decoded greedily."""
    return next(
        folder
        for folder in sorted(first.glob("[0-9]"))
        if read_json(folder / "scores.json")["params"]["decoding.text_temperature"] == 0
    )


@pytest.fixture(scope="module")
def transcribed(place: Workplace, calls: dict[str, str], greedy: Path) -> Outcome:
    adapter = read_json(greedy / "scores.json")["signature"]
    return place.run(
        TRANSCRIBE, "audio=calls", "out=texts", f"adapter={adapter}", "format=[csv,srt]", "decoding=greedy", *OPTIONS
    )


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def rows_of(place: Workplace, folder: str = "texts") -> dict[str, dict[str, Any]]:
    """Lines of transcripts.jsonl by the recording's path below ``calls``, or its name."""
    rows = read_jsonl(place.folder / folder / "transcripts.jsonl")
    root = place.folder / "calls"
    return {str(p.relative_to(root) if (p := Path(row["audio"])).is_relative_to(root) else p.name): row for row in rows}


def answers_of(place: Workplace) -> int:
    """Number of pieces whose answers the store has."""
    files = (place.store / "transcript").glob("*/answers.jsonl")
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


def test_texts_are_those_of_evaluation(
    place: Workplace, transcribed: Outcome, calls: dict[str, str], greedy: Path
) -> None:
    assert transcribed.code == 0, transcribed.err
    hypotheses = {row["id"]: row["hypothesis"] for row in read_jsonl(greedy / "utterances.jsonl")}
    rows = rows_of(place)
    assert rows.keys() == {*calls, "broken.wav"}
    for name, reference in calls.items():
        row = rows[name]
        assert row["text"] == hypotheses[reference] and row["avg_logprob"] < 0 and "error" not in row
        (segment,) = row["segments"]
        assert segment["text"] == row["text"]
        assert (segment["start"], segment["end"]) == (0.0, pytest.approx(row["seconds"], abs=1e-3))
        assert (place.folder / "texts" / name).with_suffix(".srt").is_file()
    assert not (place.folder / "texts" / ".pieces").exists()
    meta = read_json(place.store / "adapter" / read_json(greedy / "scores.json")["signature"] / "product.json")
    assert f"prompt {meta['prompt']}\n" in transcribed.out


def test_a_bad_file_is_a_row_with_its_reason(place: Workplace, transcribed: Outcome) -> None:
    broken = rows_of(place)["broken.wav"]
    assert broken["reason"] == "unreadable_audio" and "broken.wav" in broken["error"] and "text" not in broken
    assert f"no text: {broken['error']}" in transcribed.out
    assert "hours per second" in transcribed.out
    assert not (place.folder / "texts" / "broken.srt").exists()


def test_only_what_is_new_is_decoded(place: Workplace, transcribed: Outcome, greedy: Path) -> None:
    before = answers_of(place)
    (some,) = read_jsonl(place.folder / "data" / "train.tokens.jsonl")[:1]
    source = place.folder / "data" / some["conversation"][1]["content"]
    shutil.copytree(place.folder / "calls", place.folder / "more")
    shutil.copyfile(source, place.folder / "more" / "new.wav")
    options = (f"adapter={read_json(greedy / 'scores.json')['signature']}", "decoding=greedy", *OPTIONS)
    said = place.succeed(TRANSCRIBE, "audio=more", "out=more_texts", *options)
    assert answers_of(place) == before + 1 and "to encode: nothing" in said
    assert "the store had all texts" in place.succeed(TRANSCRIBE, "audio=more", "out=more_texts", *options)
    texts = {Path(name).name: row.get("text") for name, row in rows_of(place, "more_texts").items()}
    old = {Path(name).name: row.get("text") for name, row in rows_of(place).items()}
    assert texts.pop("new.wav") is not None and texts == old


def test_the_texts_are_a_corpus_to_correct(place: Workplace, transcribed: Outcome) -> None:
    copying, preparing = transcribed.out.splitlines()[-2:]
    assert copying == "cp texts/transcripts.csv texts/corrected.csv"
    assert preparing.startswith("python -m kimi_audio_ft.prepare csv=texts/corrected.csv ")
    options = ("start_column=start", "end_column=end", "max_refused=1", "max_chars_per_second=100")
    options += ("eval_ratio=0", "test_ratio=0")
    place.succeed("kimi_audio_ft.prepare", "csv=texts/transcripts.csv", "out=corrected", *options)
    texts = {row["audio"]: row["text"].strip() for row in rows_of(place).values() if row.get("text", "").strip()}
    lines = read_jsonl(place.folder / "corrected" / "train.jsonl")
    found = {
        str((place.folder / "corrected" / line["conversation"][1]["content"]).resolve()): line["conversation"][2]
        for line in lines
    }
    assert found and all(texts[audio] == message["content"] for audio, message in found.items())
    refused = read_jsonl(place.folder / "corrected" / "rejected.jsonl")
    assert any("broken.wav" in json.dumps(row) for row in refused)


def test_corrections_are_never_overwritten(place: Workplace, transcribed: Outcome, greedy: Path) -> None:
    table = place.folder / "texts" / "transcripts.csv"
    written = table.read_bytes()
    table.write_bytes(written + b"corrected\n")
    adapter = read_json(greedy / "scores.json")["signature"]
    arguments = ("audio=calls", "out=texts", f"adapter={adapter}", "format=[csv,srt]", "decoding=greedy", *OPTIONS)
    done = place.run(TRANSCRIBE, *arguments)
    assert done.code == 2 and "texts/transcripts.csv: has been edited" in done.err, done.err
    assert table.read_bytes() == written + b"corrected\n"
    table.write_bytes(written)
    assert "the store had all texts" in place.succeed(TRANSCRIBE, *arguments)


def test_a_file_that_changes_or_vanishes_costs_only_itself(
    place: Workplace, references: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, rate = joined_clips(place, references, 0.0, 8)
    names = ("a.wav", "b.wav", "c.wav", "d.wav")
    folder = place.folder / "unsteady"
    folder.mkdir()
    for number, name in enumerate(names):
        soundfile.write(folder / name, samples[number * rate : (number + 2) * rate], rate)

    edits = iter([lambda: soundfile.write(folder / "c.wav", samples[: 3 * rate], rate)])

    def encode(*given: Any, **options: Any) -> list[Path]:
        """With one of the recordings gone, which ends the first call, and another edited after the second."""
        (folder / "b.wav").unlink(missing_ok=True)
        coded = tokenize(*given, **options)
        next(edits, lambda: None)()
        return coded

    monkeypatch.setattr("kimi_audio_ft.transcribe.run.tokenize", encode)
    place.succeed(TRANSCRIBE, "audio=unsteady", "out=unsteady_texts", *OPTIONS)
    rows = {Path(row["audio"]).name: row for row in read_jsonl(place.folder / "unsteady_texts" / "transcripts.jsonl")}
    assert rows.keys() == {*names} and all("text" in rows[name] for name in ("a.wav", "d.wav"))
    assert {rows[name]["reason"] for name in ("b.wav", "c.wav")} == {"changed_audio"}
    assert "No such file" in rows["b.wav"]["error"] and "it changed while" in rows["c.wav"]["error"]
    assert ".pieces" not in rows["b.wav"]["error"]


def test_the_recommended_trial_of_a_sweep(place: Workplace, calls: dict[str, str], first: Path) -> None:
    document = read_json(first / "trials.json")
    entry = next(one for one in [*document["trials"], *document["baselines"]] if one["recommended"])
    name = f"adapter {entry['signature']}" if entry["kind"] == "trial" else "the base alone"
    said = place.succeed(TRANSCRIBE, "audio=calls", "out=best", f"sweep={first}", *OPTIONS)
    assert name in said
    rows = rows_of(place, "best")
    assert [name for name, row in rows.items() if "error" in row] == ["broken.wav"]


def test_a_long_recording_is_transcribed_as_its_windows_alone(
    place: Workplace, references: list[dict[str, Any]]
) -> None:
    """Several windows, and samples whose agreement stands beside each text."""
    samples, rate = joined_clips(place, references, 0.0, 18)
    samples = samples[: 18 * rate]
    (place.folder / "long").mkdir()
    (place.folder / "cut").mkdir()
    soundfile.write(place.folder / "long" / "long.wav", samples, rate, subtype="PCM_16")
    for number in range(3):
        piece = samples[number * 6 * rate : (number + 1) * 6 * rate]
        soundfile.write(place.folder / "cut" / f"{number}.wav", piece, rate, subtype="PCM_16")
    options = ("cut=windows", "max_seconds=6", "format=vtt", *OPTIONS)
    place.succeed(TRANSCRIBE, "audio=long/*.wav", "out=long_texts", *options)
    place.succeed(TRANSCRIBE, "audio=cut", "out=cut_texts", *options)
    (long,) = rows_of(place, "long_texts").values()
    cut = [row["text"] for row in rows_of(place, "cut_texts").values()]
    assert [(one["start"], one["end"]) for one in long["segments"]] == [(0.0, 6.0), (6.0, 12.0), (12.0, 18.0)]
    assert [one["text"] for one in long["segments"]] == cut and long["text"].replace(" ", "")
    assert (place.folder / "long_texts" / "long.vtt").read_text(encoding="utf-8").startswith("WEBVTT\n")
    sampled = ("decoding.text_temperature=0.7", "decoding.repeats=3")
    said = place.succeed(TRANSCRIBE, "audio=long", "out=sampled", *options, *sampled, "surest=1")
    assert re.search(r"the surest: sampled/surest\.csv, (\S+) of \S+ hours that have a whole text", said), said
    (row,) = rows_of(place, "sampled").values()
    assert 0 <= row["agreement"] <= 1 and all(0 <= one["agreement"] <= 1 for one in row["segments"])


def joined_clips(
    place: Workplace, references: list[dict[str, Any]], pause: float, seconds: float
) -> tuple[np.ndarray, int]:
    """Clips of the evaluation set, again and again for so many seconds, ``pause`` seconds apart; and their rate."""
    files = [place.folder / "data" / line["conversation"][1]["content"] for line in references]
    read = [soundfile.read(file, dtype="float32") for file in files]
    rate = read[0][1]
    silence = np.zeros(round(pause * rate), np.float32)
    parts: list[np.ndarray] = []
    for clip, _ in cycle(read):
        parts += [clip, silence]
        if sum(map(len, parts)) >= seconds * rate:
            return np.concatenate(parts), rate
    raise AssertionError("there are clips")


@pytest.mark.skipif(find_spec("silero_vad") is None, reason="the extra `vad` is not installed")
def test_minutes_of_clips_are_cut_at_the_pauses_between_them(
    place: Workplace, references: list[dict[str, Any]]
) -> None:
    samples, rate = joined_clips(place, references, 1.5, 125)
    (place.folder / "meeting").mkdir()
    soundfile.write(place.folder / "meeting" / "meeting.wav", samples, rate)
    place.succeed(TRANSCRIBE, "audio=meeting", "out=meeting_texts", *OPTIONS)
    (row,) = rows_of(place, "meeting_texts").values()
    segments = row["segments"]
    assert len(segments) > 3 and all(one["end"] - one["start"] <= 30 for one in segments)
    assert all(one["end"] <= two["start"] for one, two in pairwise(segments))
    loud = np.abs(samples) > 0.1 * np.abs(samples).max()
    for edge in chain.from_iterable((one["start"], one["end"]) for one in segments):
        assert not loud[max(0, round((edge - 0.02) * rate)) : round((edge + 0.02) * rate)].any(), f"speech at {edge} s"
    covered = np.zeros(len(samples), bool)
    for one in segments:
        covered[round(one["start"] * rate) : round(one["end"] * rate)] = True
    assert not (loud & ~covered).any(), "no speech is left out"


def test_nobody_speaks(place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hear_no_speech(monkeypatch, tmp_path)
    soundfile.write(place.folder / "silent.wav", np.zeros(31 * 8000, np.float32), 8000)
    said = place.succeed(TRANSCRIBE, "audio=silent.wav", "out=silent", *OPTIONS)
    assert "nothing to transcribe in them" in said and "the store had" not in said
    assert "without speech: 1 recording\n" in said
    assert rows_of(place, "silent")["silent.wav"]["segments"] == []


def test_pauses_need_a_package(
    place: Workplace, references: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_silero(monkeypatch)
    samples, rate = joined_clips(place, references, 10.0, 31)
    soundfile.write(place.folder / "too_long.wav", samples, rate)
    done = place.run(TRANSCRIBE, "audio=too_long.wav", "out=none", *OPTIONS)
    assert done.code == 2 and "needs the package silero-vad" in done.err and "cut=windows" in done.err


def test_nothing_to_transcribe(place: Workplace) -> None:
    (place.folder / "bad").mkdir()
    (place.folder / "bad" / "a.wav").write_bytes(b"no audio")
    done = place.run(TRANSCRIBE, "audio=bad", "out=bad_texts", *OPTIONS)
    assert done.code == 2 and "none of 1 recordings can be transcribed. The first: " in done.err
    (row,) = read_jsonl(place.folder / "bad_texts" / "transcripts.jsonl")
    assert row["reason"] == "unreadable_audio"
    done = place.run(TRANSCRIBE, "audio=bad", "out=bad/a.wav", *OPTIONS)
    assert done.code == 2 and "out='bad/a.wav': is not a folder" in done.err
    done = place.run(TRANSCRIBE, "audio=nowhere", "out=bad_texts", *OPTIONS)
    assert done.code == 2 and "audio='nowhere': there is no such file or folder" in done.err
