"""The report: its three files, the page's parts in both languages, size and time; and the command that writes it."""

from __future__ import annotations

import hashlib
import html
import json
import re
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from kimi_audio_ft.store.cache import keep, recall
from kimi_audio_ft.sweep_folder import record_jobs
from multirun_analysis import load_sweep, write_report
from multirun_analysis.__main__ import main
from multirun_analysis.analysis import Analysis
from multirun_analysis.messages import CHINESE, ENGLISH
from multirun_analysis.report.board import Board
from multirun_analysis.report.next_steps import next_steps
from multirun_analysis.report.page import SCRIPT_DIGESTS, chart_libraries, render
from multirun_analysis.statistics.results import Reason
from multirun_analysis.words import conclusions, effort, recommendation
from tests.pace import pace
from tests.report_page import body, page_of, printed, section, specs, values, visible
from tests.unit.multirun_analysis.conftest import SweepWriter

NOW = datetime(2026, 1, 1)


@pytest.fixture(scope="module")
def english(synthetic: Analysis) -> str:
    return body(render(synthetic, NOW, ENGLISH))


def test_page_and_terminal_say_what_to_do_next(synthetic: Analysis, english: str) -> None:
    steps, text = next_steps(synthetic, ENGLISH), printed(synthetic)
    assert steps[0].said in html.unescape(english.partition('<section id="board">')[0])
    assert ENGLISH("next.title") in text and len(next_steps(synthetic, CHINESE)) == len(steps)
    commands = [command for step in steps for command in step.commands]
    assert len(commands) == 5
    for command in commands:
        assert f"<pre>{html.escape(command)}</pre>" in english and f"  {command}\n" in text


@pytest.mark.parametrize("is_shown", [True, False])
def test_green_is_for_a_gain_that_is_proven(synthetic: Analysis, is_shown: bool) -> None:
    assert synthetic.statistics.gain
    statistics = replace(synthetic.statistics, gain=replace(synthetic.statistics.gain, shown=is_shown))
    page = body(render(replace(synthetic, statistics=statistics), NOW, ENGLISH))
    assert ('<div class="good">' in page) == is_shown
    assert ('<div class="verdict proven">' in page) == is_shown


@pytest.fixture(scope="module")
def page_24(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of ``sweep_24``, for tests that only read it."""
    return page_of(SweepWriter(tmp_path_factory.mktemp("sweep_24")).grid())


@pytest.mark.slow
def test_every_row_has_its_interval_and_a_whisker(synthetic: Analysis, english: str) -> None:
    for row in synthetic.rows:
        low, high = row.trial.record["cer_ci_low"], row.trial.record["cer_ci_high"]
        assert f">{100 * low:.2f} – {100 * high:.2f}<" in english
    assert english.count('class="whisker"') == len(Board(synthetic).lines) == len(synthetic.rows) + 2 == 12


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
    assert synthetic.statistics.reason is Reason.LOWEST
    others = len(synthetic.statistics.best_group) - 1
    said = recommendation(synthetic, ENGLISH)
    assert (
        said.startswith(f"Recommended: trial {synthetic.statistics.recommended.name} (lora.r=32")
        and f"{others} others are not ruled out as the best" in said
    )
    assert f"另有 {others} 个试验不能排除是最佳" in recommendation(synthetic, CHINESE)
    gain, method = conclusions(synthetic, ENGLISH)[1:3]
    assert gain.startswith("Against the base, CER ") and "20 recordings" in method
    assert conclusions(synthetic, ENGLISH)[-1] == "One adapter overfitted: lora.r=32 optim.lr=1e-4 (epoch 3)."
    turned = "1 个适配器过拟合，验证损失先降后升：lora.r=32 optim.lr=1e-4（第 3 轮）。"
    assert conclusions(synthetic, CHINESE)[-1] == turned


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_its_sentence(synthetic: Analysis, reason: Reason) -> None:
    comparison = replace(synthetic, statistics=replace(synthetic.statistics, reason=reason))
    number = synthetic.statistics.recommended.name
    english, chinese = (recommendation(comparison, say) for say in (ENGLISH, CHINESE))
    begins = {
        Reason.ONLY: ("There is one", "只有一个"),
        Reason.KEEP_BASE: (f"Keep the base: trial {number} (lora.r=32", f"保留基座：试验 {number}（lora.r=32"),
    }
    begin = begins.get(reason, (f"Recommended: trial {number} (lora.r=32", f"推荐：试验 {number}（lora.r=32"))
    assert english.startswith(begin[0]) and chinese.startswith(begin[1])


def test_a_chinese_page_has_no_english_interface_text(synthetic: Analysis) -> None:
    chinese = body(render(synthetic, NOW, CHINESE))
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
    assert section(english, "trials").count('class="copy"') == 8
    details = english.partition('<details id="trial-0">')[2].partition("</details>")[0]
    recommended = synthetic.statistics.recommended
    assert f"Options that differ from {recommended.name} (lora.r=32" in details
    assert re.search(r'<th scope="row">lora.r</th><td>8</td><td>32</td>', details)
    mine = english.partition(f'<details id="trial-{recommended.name}">')[2].partition("</details>")[0]
    assert 'class="badge"' in mine.partition("</summary>")[0]


def test_costs_are_sums_of_the_records(synthetic: Analysis, english: str) -> None:
    cost = visible(section(english, "cost"))
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
    wav = tmp_path / "a.wav"
    soundfile.write(wav, np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    lines = [
        {"id": name, "repeat": 0, "reference": "今天开会", "hypothesis": "今天看会", "cer": 0.25, "audio": str(path)}
        for name, path in (("heard", wav), ("lost", tmp_path / "gone.wav"))
    ]
    sweep.heard(sweep.trial(0) / "utterances.jsonl", lines)
    page = body(page_of(sweep.folder))
    assert len(re.findall(r'<audio controls preload="metadata" [^>]*src="data:audio/mpeg;base64,', page)) == 1
    assert "gone.wav (the recording was not found)" in page


def test_rates_that_have_no_column_are_told_with_the_trial(sweep: Any) -> None:
    sweep.trial(0, pinyin_error_rate=0.1234, over_generation_rate=0.05)
    paths = write_report(sweep.folder)
    page = body(paths.html.read_text(encoding="utf-8"))
    assert "<dd>12.34 %</dd>" in page and "<dd>5.00 %</dd>" in page
    (trial,) = json.loads(paths.json.read_text(encoding="utf-8"))["trials"]
    assert trial["scores"]["pinyin_error_rate"] == 0.1234


@pytest.mark.slow
def test_a_sweep_recorded_before_there_were_statistics_is_still_told(sweep_24: Path) -> None:
    for language, word in (("en", "Kinds of errors"), ("zh", "错误类型")):
        page = body(page_of(sweep_24, language))
        assert word not in page and "None" not in visible(page)


def test_three_files_are_written_whole_and_nothing_else(sweep_24: Path) -> None:
    before = set(sweep_24.rglob("*"))
    paths = write_report(sweep_24)
    assert set(sweep_24.rglob("*")) - before == {paths.html, paths.csv, paths.json}
    assert paths.html.stat().st_size < 1_500_000


def test_out_names_another_folder(sweep_24: Path, tmp_path: Path) -> None:
    paths = write_report(sweep_24, tmp_path / "new" / "folder")
    assert paths.html.parent == tmp_path / "new" / "folder" and paths.html.is_file()
    assert not (sweep_24 / "report.html").exists()


def test_figures_that_are_no_numbers_become_null(sweep) -> None:
    folder = sweep.trial(0, final_val_loss=float("nan"), train_seconds=float("inf"))
    sweep.trial(1, rank=2)
    lines = [{"step": step, "split": "train", "loss": loss} for step, loss in enumerate([1.0, float("nan"), 0.5])]
    sweep.write_lines(folder / "curves.jsonl", lines)
    paths = write_report(sweep.folder)
    entry = json.loads(paths.json.read_text(encoding="utf-8"), parse_constant=pytest.fail)["trials"][0]
    assert entry["final_val_loss"] is None and entry["train_seconds"] is None
    losses = [row["loss"] for row in values(specs(paths.html.read_text(encoding="utf-8"))["train-loss"])]
    assert {1.0, 0.5} <= set(losses)


def test_the_report_shows_all_its_parts(page_24: str) -> None:
    charts = {"parallel", "by-lora.r", "by-optim.lr", "by-decoding.text_temperature", "heat-map", "effects"}
    charts |= {"cost", "best-so-far", "train-loss", "val-loss"}
    assert set(specs(page_24)) == charts
    assert len({row["signature"] for row in values(specs(page_24)["train-loss"])}) == 6, "one line for each adapter"
    text = body(page_24)
    for part in ("Leaderboard", "base 68.0 %", "reused", "Worst utterances", "906d5e5", "5be1a0", "assets/tiny"):
        assert part in text
    assert text.count("python -m kimi_audio_ft.train lora.r=") == 24
    assert "Not finished" not in text


def test_nothing_in_the_report_asks_the_network(page_24: str) -> None:
    assert not re.search(r"<(script|link|img|iframe|audio)[^>]+(src|href)=", body(page_24))
    assert "default-src 'none'" in page_24
    assert page_24.count("</script>") == 3


def test_text_from_data_is_escaped_everywhere(sweep) -> None:
    evil = "</script><img src=x onerror=alert(1)>&"
    folder = sweep.trial(0, trial=evil, command=evil, eval_manifest=evil, git_commit=evil)
    sweep.trial(1, params=sweep.params(8, 1e-3, 0.0) | {"lora.target_modules": evil}, cer=0.9, eval_manifest=evil)
    sweep.fail(2, message=evil)
    line = {"id": evil, "repeat": 0, "reference": evil, "hypothesis": evil + evil, "cer": 1.0, "audio": evil}
    sweep.heard(folder / "utterances.jsonl", [line])
    page = page_of(sweep.folder)
    assert "<img" not in body(page)
    assert html.escape("<img src=x onerror=alert(1)>") in page
    assert page.count("</script>") == 3
    assert any(evil in json.dumps(spec) for spec in specs(page).values())


def test_reasons_of_missing_trials_are_told(sweep) -> None:
    sweep.trial(0)
    sweep.fail(1, rate=0.1)
    sweep.start(2, 8, 0.2, 0.0)
    text = body(page_of(sweep.folder))
    assert "FloatingPointError: loss is nan at step 12" in text
    assert "optim.lr=0.2: not finished" in text and "not started" not in text


def launch(sweep: SweepWriter, trials: int) -> None:
    record_jobs(sweep.folder, {number: (sweep.folder / str(number), []) for number in range(trials)})


@pytest.mark.parametrize(("launched", "begun"), [(36, "33 trials have not started."), (4, "1 trial has not started.")])
def test_trials_that_wait_are_counted_and_not_called_unfinished(sweep, launched: int, begun: str) -> None:
    sweep.trial(0)
    sweep.fail(1, rate=0.1)
    sweep.start(2, 8, 0.2, 0.0)
    launch(sweep, launched)
    comparison = load_sweep(sweep.folder)
    assert effort(comparison).startswith(f"1 trial finished, 1 failed, 1 unfinished, {launched - 3} not started; 1 ")
    said = f"1 个试验已完成、1 个失败、1 个未完成、{launched - 3} 个未开始；"
    assert effort(comparison, CHINESE).startswith(said)
    assert begun in page_of(sweep.folder)
    live = render(comparison, NOW, reload=30)
    assert begun in live and "to resume it" not in live, "it has not stopped"


def test_when_only_waiting_trials_are_missing_it_is_said(sweep) -> None:
    sweep.trial(0)
    launch(sweep, 1)
    assert 'id="not-finished"' not in page_of(sweep.folder)
    launch(sweep, 2)
    page = page_of(sweep.folder)
    assert 'id="not-finished"' in page and 'href="#not-finished"' in page


@pytest.mark.parametrize(
    ("grid", "charts"),
    [
        ({"ranks": (8,), "rates": (1e-3,), "temperatures": (0.0,)}, []),
        ({"ranks": (8,), "rates": (1e-3,)}, ["best-so-far", "by-decoding.text_temperature", "effects"]),
        ({"ranks": (8,), "temperatures": (0.0,), "baseline": False}, ["by-optim.lr", "effects"]),
    ],
)
def test_smaller_sweeps_leave_out_what_they_cannot_show(sweep, grid: dict[str, Any], charts: list[str]) -> None:
    assert list(specs(page_of(sweep.grid(**grid)))) == [*charts, "train-loss", "val-loss"]


def test_a_trial_without_curves_and_utterances_is_still_reported(sweep) -> None:
    folder = sweep.trial(0, baseline=False)
    (folder / "curves.jsonl").unlink()
    (folder / "utterances.jsonl").unlink()
    page = page_of(sweep.folder)
    assert specs(page) == {} and "vegaEmbed=" not in page
    assert "has no utterances.jsonl" in page


def test_a_parameter_of_words_and_missing_values_is_charted_in_order(sweep) -> None:
    for number, override in enumerate(("lora=dora", "lora=rslora", "seed=0")):
        sweep.trial(number, cer=0.1 + number / 10, extra_overrides=(override,))
    x = specs(page_of(sweep.folder))["by-lora"]["layer"][0]["encoding"]["x"]
    assert x["type"] == "ordinal" and x["sort"] == ["dora", "rslora", "–"]


def test_a_random_search_with_many_values_gets_a_colour_gradient(sweep) -> None:
    for number in range(20):
        sweep.trial(number, rank=number + 1, rate=1e-5 * 1.5**number)
    dots = specs(page_of(sweep.folder))["by-lora.r"]["layer"][1]["encoding"]
    assert dots["color"]["type"] == "quantitative" and dots["color"]["scale"]["type"] == "log"


def test_the_spread_over_repeats_is_shown_when_there_are_several(sweep) -> None:
    sweep.trial(0, cer=0.2, cer_repeats=[0.19, 0.21], cer_std=0.0141)
    assert "± 1.41" in page_of(sweep.folder)


def test_the_command_prints_the_path_of_the_report(sweep_24: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(sweep_24)]) == 0
    assert f"Report: {sweep_24.resolve() / 'report.html'}" in capsys.readouterr().out


def test_user_errors_are_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and "is not a folder" in printed.err and printed.err.count("\n") == 1


@pytest.mark.slow
def test_36_trials_of_1000_utterances_in_time_memory_and_size(night: Path) -> None:
    """And without torch, which takes seconds to import."""
    program = (
        "import sys, time; from multirun_analysis.__main__ import main; main(sys.argv[1:]); "
        # Not ru_maxrss: a child's begins with what its parent had when it was forked.
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM')); "
        "print(time.process_time(), peak.split()[1]); "
        "assert not {'torch', 'transformers', 'lightning', 'wandb'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(night)], capture_output=True, text=True, check=True)
    seconds, kibibytes = done.stdout.splitlines()[-1].split()
    assert float(seconds) < 300 * pace() and int(kibibytes) < 1_000_000
    assert (night / "report.html").stat().st_size < 3_000_000, "with 2 MB of recordings it must stay under 5 MB"


@pytest.mark.slow
def test_a_script_that_others_put_into_the_store_is_not_used(private_store: Path) -> None:
    assert version("vl-convert-python") in SCRIPT_DIGESTS, "add its digest, or every report bundles for seconds"
    known = SCRIPT_DIGESTS[version("vl-convert-python")]
    keep("report", known, "alert(1)")
    chart_libraries.cache_clear()
    assert hashlib.sha256(chart_libraries().encode()).hexdigest() == known
    assert recall("report", known) == str(chart_libraries())
