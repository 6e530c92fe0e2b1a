"""The demo corpus on disk: what a user would have, made once, never over somebody's files."""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kimi_audio_ft.demo.corpus import CorpusParameters, main, synthesize_corpus
from kimi_audio_ft.demo.sentences import generate
from kimi_audio_ft.demo.speech import GENERAL_VOICES, TARGET_VOICES, add_noise
from kimi_audio_ft.errors import DataError, UserError

SMALL = CorpusParameters(recordings=5, segments=3, seed=7)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "demo"
    assert synthesize_corpus(folder, SMALL).created
    return folder


def test_csv_reads_back_with_its_header(corpus: Path) -> None:
    rows = _rows(corpus)
    assert list(rows[0]) == ["audio", "text", "recording", "speaker"]
    good = [row for row in rows if row["audio"] not in _BAD_AUDIO and 0 < len(row["text"]) <= 16]
    assert [row["text"] for row in good] == [sentence.text for sentence in generate("target", 15, seed=7)]
    for row in good:
        info = soundfile.info(corpus / row["audio"])
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert 0.5 < info.duration < 6.0


def test_a_recording_has_one_speaker(corpus: Path) -> None:
    speakers = defaultdict(set)
    for row in _rows(corpus):
        speakers[row["recording"]].add(row["speaker"])
    assert len(speakers) == 5
    assert all(len(names) == 1 for names in speakers.values())
    assert len(set.union(*speakers.values())) >= 2


def test_bad_rows_are_the_documented_ones(corpus: Path) -> None:
    rows = {row["audio"]: row for row in _rows(corpus)}
    assert not (corpus / "audio/lost.wav").exists() and "audio/lost.wav" in rows
    assert soundfile.info(corpus / "audio/empty.wav").frames == 0
    assert (corpus / "audio/copy.wav").read_bytes() == (corpus / "audio/meeting_001_01.wav").read_bytes()
    assert [audio for audio, row in rows.items() if row["text"] == ""] == ["audio/no_text.wav"]
    assert [audio for audio, row in rows.items() if len(row["text"]) > 16] == ["audio/long_text.wav"]
    assert len(rows) == len(_rows(corpus)) == 15 + 5
    contents = [path.read_bytes() for path in (corpus / "audio").iterdir()]
    assert len(contents) - len(set(contents)) == 1  # the copy


def test_an_empty_folder_is_filled_and_without_bad_rows_every_row_is_good(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    synthesize_corpus(tmp_path / "c", CorpusParameters(recordings=2, segments=2, bad_rows=False))
    rows = _rows(tmp_path / "c")
    assert len(rows) == 4 == len(list((tmp_path / "c/audio").iterdir()))
    assert all(row["text"] and (tmp_path / "c" / row["audio"]).is_file() for row in rows)


def test_same_parameters_make_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    synthesize_corpus(tmp_path / "again", SMALL)
    assert _digests(tmp_path / "again") == _digests(corpus)


def test_second_run_does_nothing(corpus: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    summary = synthesize_corpus(corpus, SMALL)
    assert not summary.created and summary.clips == 15 and summary.minutes > 0.3
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before


def test_an_edited_list_of_terms_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terms = tmp_path / "c" / "terms.txt"
    small = CorpusParameters(recordings=1, segments=1, bad_rows=False)
    synthesize_corpus(tmp_path / "c", small)
    whole = terms.read_text(encoding="utf-8")
    terms.write_text("沈嘉睿\n", encoding="utf-8")
    synthesize_corpus(tmp_path / "c", small)
    assert terms.read_text(encoding="utf-8") == "沈嘉睿\n"
    terms.unlink()  # as of earlier versions
    synthesize_corpus(tmp_path / "c", small)
    assert terms.read_text(encoding="utf-8") == whole
    terms.unlink()

    def refused(*_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refused)
    with pytest.raises(DataError, match=r"could not be written.*Permission denied"):
        synthesize_corpus(tmp_path / "c", small)


def test_other_parameters_and_foreign_folders_are_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds a corpus made from other parameters"):
        synthesize_corpus(corpus, CorpusParameters(recordings=5, segments=3, seed=8))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is no demo corpus"):
        synthesize_corpus(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_corpus_with_a_lost_file_is_not_taken_as_whole(tmp_path: Path) -> None:
    small = CorpusParameters(recordings=1, segments=2, bad_rows=False)
    synthesize_corpus(tmp_path / "c", small)
    (tmp_path / "c/audio/meeting_001_02.wav").unlink()
    with pytest.raises(UserError, match=r"lacks 1 of its audio files \(first: audio/meeting_001_02\.wav\)"):
        synthesize_corpus(tmp_path / "c", small)


def test_nothing_stays_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(soundfile, "write", full_disk)
    with pytest.raises(UserError, match=r"could not be written.*No space left"):
        synthesize_corpus(tmp_path / "c", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_command_prints_a_summary_and_user_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--out", str(tmp_path / "c"), "--recordings", "2", "--segments", "2", "--no-bad-rows"]
    assert main(arguments) == 0
    assert "4 segments" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main([*arguments, "--recordings", "0"]) == 2
    assert "recordings=0: must be at least 1" in capsys.readouterr().err


def test_voices_of_the_domains_are_disjoint() -> None:
    assert {v.variant for v in GENERAL_VOICES} & {v.variant for v in TARGET_VOICES} == set()


def test_noise_of_every_kind_has_the_asked_level() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000).astype(np.float32)
    shares = []
    for seed in range(12):
        noisy = add_noise(tone, 10.0, np.random.default_rng(seed))
        assert 16_000 <= noisy.size <= 16_000 + 4_800
        # Power of the 440 Hz line against all the rest of the spectrum.
        power = np.abs(np.fft.rfft(noisy.astype(np.float64) * np.hanning(noisy.size))) ** 2
        line = round(440 * noisy.size / 16_000)
        inside = power[line - 8 : line + 9].sum()
        assert 10 * np.log10(inside / (power.sum() - inside)) == pytest.approx(10.0, abs=1.5)
        shares.append(power[power.size // 2 :].sum() / (power.sum() - inside))
    assert max(shares) > 0.45 and min(shares) < 0.2, "white noise has half of its power above 4 kHz, pink little"
    assert add_noise(np.zeros(0, np.float32), 10.0, np.random.default_rng(1)).size == 0


_BAD_AUDIO = {"audio/lost.wav", "audio/empty.wav", "audio/copy.wav"}


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "corpus.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
