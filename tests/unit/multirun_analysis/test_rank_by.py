"""A sweep ranked by another rate than the CER: everywhere, by what it was run with or by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.errors import ConfigError, DataError, UserError
from multirun_analysis import load_sweep
from multirun_analysis.__main__ import main
from multirun_analysis.messages import ENGLISH
from multirun_analysis.statistics.tally import tally_up
from multirun_analysis.words import conclusions
from tests.report_page import printed

# Two trials of which one has the lower CER, the other the lower MER.
OPPOSED: list[dict[str, Any]] = [{"cer": 0.2, "mer": 0.4}, {"cer": 0.3, "mer": 0.1}]


@pytest.fixture
def opposed(sweep: Any) -> Callable[..., Path]:
    def make(*rank_by: str | None) -> Path:
        for number, (rates, asked) in enumerate(zip(OPPOSED, rank_by, strict=True)):
            stated = {} if asked is None else {"rank_by": asked}
            base = sweep.trial(number, rank=number + 1, **rates, **stated)
            document = json.loads((base / "baseline.json").read_text(encoding="utf-8"))
            sweep.write(base / "baseline.json", document | stated)
        return sweep.folder

    return make


def order(folder: Path, rank_by: str | None = None) -> list[str]:
    return [row.trial.name for row in load_sweep(folder, rank_by=rank_by).rows if row.rank]


def test_records_say_what_ranks_and_one_may_ask_for_another(opposed: Callable[..., Path]) -> None:
    folder = opposed("mer", "mer")
    assert order(folder) == ["1", "0"] and order(folder, "cer") == ["0", "1"]
    found = load_sweep(folder)
    assert found.statistics.choice.name == "1" and found.best.trial.rate == 0.1 and found.best.trial.cer == 0.3
    assert found.best.gain == pytest.approx(1 - 0.1 / 0.68)


def test_without_a_word_it_is_the_cer(opposed: Callable[..., Path]) -> None:
    assert order(opposed(None, None)) == ["0", "1"]


def test_records_that_disagree_are_not_mixed(opposed: Callable[..., Path]) -> None:
    folder = opposed("mer", None)
    with pytest.raises(UserError, match=r"scoring\.rank_by is mer in 0, cer in 1\. Choose one with --rank-by cer\|"):
        load_sweep(folder)
    assert order(folder, "mer") == ["1", "0"]


def test_what_records_lack_and_what_there_is_not_are_errors(opposed: Callable[..., Path]) -> None:
    folder = opposed(None, None)
    with pytest.raises(DataError, match=r"0/scores\.json: has no syllable error rate, which ranking by pinyin needs"):
        load_sweep(folder, rank_by="pinyin")
    with pytest.raises(ConfigError, match="rank_by='ter': must be one of cer, normalised_cer"):
        load_sweep(folder, rank_by="ter")


@pytest.mark.parametrize("rank_by", ["mer", "pinyin"])
def test_tests_and_intervals_are_of_that_rate(synthetic_folder: Path, rank_by: str) -> None:
    found = load_sweep(synthetic_folder, rank_by=rank_by)
    trials = [row.trial for row in found.rows if not row.trial.is_base]
    assert [trial.rate for trial in trials] == sorted(trial.rate for trial in trials)
    tally = tally_up(trials).ranked
    assert tally is not None and tally.rates.tolist() == pytest.approx([trial.rate for trial in trials])
    statistics, best = found.statistics, trials[0]
    pair = next(one for one in statistics.pairs if one.first is best)
    assert pair.difference == pytest.approx(best.rate - pair.second.rate)
    assert statistics.intervals[best] != statistics.strict_intervals[best]
    assert statistics.intervals[best].low < best.rate < statistics.intervals[best].high
    assert f"(scoring.rank_by={rank_by}), not by the CER" in " ".join(conclusions(found, ENGLISH))


def test_the_command_ranks_anew_and_names_the_rate_everywhere(
    synthetic_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(synthetic_folder), "--rank-by", "normalised_cer", "--out", str(tmp_path)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "norm. %" in text and re.search(r"Best: .*?: normalised CER \d", text)
    document = json.loads((tmp_path / "trials.json").read_text(encoding="utf-8"))
    assert document["rank_by"] == "normalised_cer"
    for entry in document["trials"]:
        assert entry["rate"] == entry["normalised"]["cer"]
        assert entry["rate_ci_low"] == entry["normalised_cer_ci_low"] != entry["cer_ci_low"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<dt>best normalised CER</dt>" in page and "<dt>best, CER</dt>" in page
    assert "Mean normalised CER over the trials" in page and '"title": "normalised CER (%)"' in page


def test_a_rate_that_does_not_suit_the_language_is_said(sweep: Any, opposed: Callable[..., Path]) -> None:
    def told(text: str, rank_by: str) -> str:
        for folder in opposed(None, None).iterdir():
            sweep.heard(folder / "utterances.jsonl", [{"id": "a", "reference": text, "hypothesis": text}])
            for name in ("scores.json", "baseline.json"):
                document = json.loads((folder / name).read_text(encoding="utf-8"))
                sweep.write(folder / name, document | {"pinyin_error_rate": 0.1})
        return " ".join(printed(load_sweep(sweep.folder, rank_by=rank_by), 400).split())

    assert "no spaces between words" in told("今天去杭州开会", "wer")
    assert "no spaces between words" not in told("we meet in 杭州", "wer")
    assert "their syllable error rate is the MER" in told("we meet tomorrow", "pinyin")
    assert "their syllable error rate is the MER" not in told("今天去杭州开会", "pinyin")
