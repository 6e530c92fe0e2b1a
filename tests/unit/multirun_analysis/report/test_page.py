"""The page's parts: intervals, verdicts, both languages, commands, old sweeps, size and time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from multirun_analysis import load_sweep, write_report
from multirun_analysis.analysis import Analysis
from multirun_analysis.messages import CHINESE, ENGLISH
from multirun_analysis.report.board import Board
from multirun_analysis.report.page import render
from multirun_analysis.statistics.results import Reason
from multirun_analysis.words import conclusions, recommendation
from tests.report_page import body, visible
from tests.synthetic_sweep import write_sweep

NOW = datetime(2026, 1, 1)


@pytest.fixture(scope="module")
def english(synthetic: Analysis) -> str:
    return body(render(synthetic, NOW, ENGLISH))


@pytest.fixture(scope="module")
def chinese(synthetic: Analysis) -> str:
    return body(render(synthetic, NOW, CHINESE))


def test_every_row_has_its_interval_and_a_whisker(synthetic: Analysis, english: str) -> None:
    for row in synthetic.rows:
        low, high = row.trial.record["cer_ci_low"], row.trial.record["cer_ci_high"]
        assert f">{100 * low:.2f} – {100 * high:.2f}<" in english
    assert english.count('class="whisker"') == len(synthetic.rows) == 10


@pytest.mark.parametrize("with_base", [True, False])
def test_bars_are_to_scale(synthetic: Analysis, with_base: bool) -> None:
    if not with_base:
        rows = [row for row in synthetic.rows if not row.trial.is_base]
        synthetic = replace(synthetic, sweep=replace(synthetic.sweep, baselines=[]), rows=rows)
    bars = {line.trial.name: line.bar for line in Board(synthetic).rows if not line.trial.is_base}
    for trial in synthetic.sweep.finished:
        bar, interval = bars[trial.name], synthetic.statistics.intervals.get(trial)
        assert interval and bar.low is not None and bar.width is not None
        assert bar.low / bar.fill == pytest.approx(interval.low / trial.cer)
        assert (bar.low + bar.width) / bar.fill == pytest.approx(interval.high / trial.cer)
        assert bar.low > 0 and bar.low + bar.width <= 100.001
    longest = max(bar.low + bar.width for bar in bars.values() if bar.low is not None and bar.width is not None)
    assert with_base or longest == pytest.approx(100)


def test_a_far_worse_base_does_not_squeeze_the_trials(sweep: Any) -> None:
    sweep.trial(0, cer=0.05)
    sweep.trial(1, rank=16, cer=0.06)
    bars = {line.trial.is_base: line.bar for line in Board(load_sweep(sweep.folder)).rows[1:]}
    assert bars[True].fill == 100 and bars[True].beyond and not bars[False].beyond
    assert bars[False].fill == 100


def test_a_base_that_is_better_than_a_trial_does_not_cut_its_bar(sweep: Any) -> None:
    sweep.trial(0, cer=0.5)
    sweep.trial(1, rank=16, cer=0.9)  # the base has 0.68
    fills = [line.bar.fill for line in Board(load_sweep(sweep.folder)).rows]
    assert fills == pytest.approx([100 * rate / 0.9 for rate in (0.5, 0.68, 0.9)])


def test_the_group_and_the_recommended_trial_are_marked(synthetic: Analysis, english: str) -> None:
    statistics = synthetic.statistics
    group = [trial.name for trial in statistics.best_group]
    assert len(group) > 1
    alike = re.findall(r'<tr class="(?:best|alike)(?: recommended)?" data-name="(\d+)"', english)
    assert alike == group
    assert re.findall(r'<tr class="\w+ recommended" data-name="(\d+)"', english) == [statistics.recommended.name]
    assert len(re.findall(r'<b class="badge">recommended</b> \s*\d', english)) == 1


def test_the_verdict_names_group_and_method(synthetic: Analysis) -> None:
    assert synthetic.statistics.reason is Reason.BEST_IS_CHEAPEST
    others = len(synthetic.statistics.best_group) - 1
    said = recommendation(synthetic, ENGLISH)
    assert said.startswith("Recommended: lora.r=32") and f"{others} other trials tie with it" in said
    assert f"另有 {others} 个试验与它并列" in recommendation(synthetic, CHINESE)
    method = conclusions(synthetic, ENGLISH)[1]
    assert "over 28 pairs" in method and "20 recordings" in method
    assert conclusions(synthetic, ENGLISH)[-1] == "One adapter overfitted: lora.r=32 optim.lr=1e-4 (epoch 3)."
    turned = "1 个适配器过拟合，验证损失先降后升：lora.r=32 optim.lr=1e-4（第 3 轮）。"
    assert conclusions(synthetic, CHINESE)[-1] == turned


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_its_sentence(synthetic: Analysis, reason: Reason) -> None:
    comparison = replace(synthetic, statistics=replace(synthetic.statistics, reason=reason))
    english, chinese = (recommendation(comparison, say) for say in (ENGLISH, CHINESE))
    assert english.startswith("There is one" if reason is Reason.ONLY else "Recommended: lora.r=32")
    assert chinese.startswith("只有一个" if reason is Reason.ONLY else "推荐：lora.r=32")


def test_needed_utterances_are_told_when_the_best_are_alike(synthetic: Analysis) -> None:
    needed = synthetic.statistics.needed
    assert needed is not None
    (said,) = [line for line in conclusions(synthetic, ENGLISH) if "separate" in line and "Holm" not in line]
    if needed.utterances is None:
        assert "no evaluation set" in said
    else:
        assert f"{needed.utterances:,} utterances in {needed.recordings:,} recordings" in said
        assert "there are 120 in 20" in said


def test_few_recordings_and_one_trial_are_said(sweep: Any) -> None:
    sweep.trial(0)
    assert recommendation(load_sweep(sweep.folder), ENGLISH).startswith("There is one finished trial")
    sweep.trial(1, rank=16)
    said = recommendation(load_sweep(sweep.folder), CHINESE)
    assert "评测集只有 4 段录音" in said


def test_a_chinese_page_has_no_english_interface_text(chinese: str) -> None:
    told = r'(?:title|aria-label|placeholder|data-(?:undrawn|actions|png|svg|text|done))="([^"]*)"'
    drawn = re.findall(r'"(?:title|word|row|axis|category)":\s*"([^"]*)"', chinese)
    keys_left_out = re.sub(r"<dt>[a-z_.]+</dt>", "", chinese)
    seen = " ".join([visible(keys_left_out), *re.findall(told, chinese), *drawn])
    words = (re.compile(rf"(?<![\w.=/-]){re.escape(fragment)}(?![\w.=/-])") for fragment in _english_fragments())
    assert [word.pattern for word in words if word.search(seen)] == []
    assert '<html lang="zh-CN">' in chinese


def test_that_test_can_fail(english: str) -> None:
    seen = visible(english)
    assert sum(fragment in seen for fragment in _english_fragments()) > 80


def _english_fragments() -> list[str]:
    """Words of the English catalogue that are in no Chinese text."""
    all_chinese = " ".join(CHINESE.texts.values())
    pieces = [piece.strip(" .,:;()%") for text in ENGLISH.texts.values() for piece in re.split(r"\{[^}]*\}|\|\|", text)]
    worded = {piece for piece in pieces if re.search(r"[a-zA-Z]{4}", piece)}
    return sorted(piece for piece in worded if piece not in all_chinese)


def test_every_command_can_be_copied_and_tells_what_differs(synthetic: Analysis, english: str) -> None:
    assert english.count('class="copy"') == 8
    section = english.partition('<details id="trial-0">')[2].partition("</details>")[0]
    recommended = synthetic.statistics.recommended
    assert f"Options that differ from {recommended.name} (lora.r=32" in section
    assert re.search(r'<th scope="row">lora.r</th><td>8</td><td>32</td>', section)
    mine = english.partition(f'<details id="trial-{recommended.name}">')[2].partition("</details>")[0]
    assert 'class="badge"' in mine.partition("</summary>")[0]


def test_costs_are_sums_of_the_records(synthetic: Analysis, english: str) -> None:
    cost = visible(english.partition('<section id="cost">')[2].partition("</section>")[0])
    trained = sum(2 * (1800 + 20 * rank) for rank in (8, 32))
    assert f"{trained // 3600} h {trained % 3600 // 60:02d} min for 4 adapters" in cost
    assert "12 min 40 s for 8 trials" in cost  # 95 s each
    assert f"{(trained + 760) / 3600:.2f} h of training and decoding" in cost
    assert "4 further trainings" in cost


def test_tables_are_for_keyboards_and_readers(english: str) -> None:
    board = english.partition('<table class="board')[2].partition("</table>")[0]
    headings = re.findall(r"<th [^>]*>(.*?)</th>", board)
    assert len(headings) >= 12 and all(heading.startswith('<button type="button"') for heading in headings)
    assert all('scope="col"' in heading for heading in re.findall(r"<th [^>]*>", board))
    assert "media-src data:" in english


def test_recordings_of_the_worst_utterances_are_in_the_page(sweep: Any, tmp_path: Path) -> None:
    folder = sweep.trial(0)
    wav = tmp_path / "a.wav"
    soundfile.write(wav, np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    lines = [
        {"id": name, "repeat": 0, "reference": "今天开会", "hypothesis": "今天看会", "cer": 0.25, "audio": str(path)}
        for name, path in (("heard", wav), ("lost", tmp_path / "gone.wav"))
    ]
    sweep.write_lines(folder / "utterances.jsonl", lines)
    page = body(write_report(sweep.folder).html.read_text(encoding="utf-8"))
    assert len(re.findall(r'<audio controls preload="metadata" [^>]*src="data:audio/mpeg;base64,', page)) == 1
    assert "gone.wav (the recording was not found)" in page


def test_rates_that_have_no_column_are_told_with_the_trial(sweep: Any) -> None:
    sweep.trial(0, pinyin_error_rate=0.1234, over_generation_rate=0.05)
    paths = write_report(sweep.folder)
    page = body(paths.html.read_text(encoding="utf-8"))
    assert "<dd>12.34 %</dd>" in page and "<dd>5.00 %</dd>" in page
    (trial,) = json.loads(paths.json.read_text(encoding="utf-8"))["trials"]
    assert trial["scores"]["pinyin_error_rate"] == 0.1234


def test_a_sweep_recorded_before_there_were_statistics_is_still_told(sweep_24: Path) -> None:
    for language, word in (("en", "Kinds of errors"), ("zh", "错误类型")):
        page = body(write_report(sweep_24, language=language).html.read_text(encoding="utf-8"))
        assert word not in page and "None" not in visible(page)


@pytest.mark.slow
def test_36_trials_of_1000_utterances_in_time_memory_and_size(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    program = (
        "import sys, time; from multirun_analysis.__main__ import main; main(sys.argv[1:]); "
        # Not ru_maxrss: a child's begins with what its parent had when it was forked.
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM')); "
        "print(time.process_time(), peak.split()[1])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    seconds, kibibytes = done.stdout.splitlines()[-1].split()
    assert float(seconds) < 30 and int(kibibytes) < 1_000_000
    assert (folder / "report.html").stat().st_size < 3_000_000, "with 2 MB of recordings it must stay under 5 MB"
