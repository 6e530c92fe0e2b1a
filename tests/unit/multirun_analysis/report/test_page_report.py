"""The three files and the command."""

from __future__ import annotations

import html
import io
import json
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.sweep_folder import record_jobs
from multirun_analysis import load_sweep, print_leaderboard, write_report
from multirun_analysis.__main__ import main
from multirun_analysis.messages import CHINESE
from multirun_analysis.report.page import render
from multirun_analysis.words import effort
from tests.report_page import body, specs, values
from tests.unit.multirun_analysis.conftest import SweepWriter


def page_of(folder: Path) -> str:
    return write_report(folder).html.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page_24(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of ``sweep_24``, for tests that only read it."""
    return page_of(SweepWriter(tmp_path_factory.mktemp("sweep_24")).grid())


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
    charts |= {"train-loss", "val-loss"}
    assert set(specs(page_24)) == charts
    text = body(page_24)
    for part in ("Leaderboard", "base 68.0 %", "reused", "Worst utterances", "906d5e5", "5be1a0", "assets/tiny"):
        assert part in text
    assert text.count("python -m kimi_audio_ft.train lora.r=") == 24
    assert "Not finished" not in text


def test_points_are_trials_and_loss_lines_are_adapters(page_24: str) -> None:
    found = specs(page_24)
    points = {(row["x"], row["cer"]) for row in values(found["by-lora.r"]) if "x" in row}
    assert len(points) == 24 and {x for x, _ in points} == {2, 8, 32}
    assert len({row["signature"] for row in values(found["train-loss"])}) == 6
    assert len(values(found["heat-map"])) >= 6


def test_rank_and_learning_rate_have_logarithmic_axes(page_24: str) -> None:
    found = specs(page_24)
    scale = {key: spec["layer"][0]["encoding"]["x"]["scale"].get("type") for key, spec in found.items() if "by-" in key}
    assert scale == {"by-lora.r": "log", "by-optim.lr": "log", "by-decoding.text_temperature": None}


def test_nothing_in_the_report_asks_the_network(page_24: str) -> None:
    assert not re.search(r"<(script|link|img|iframe|audio)[^>]+(src|href)=", body(page_24))
    assert "default-src 'none'" in page_24
    assert page_24.count("</script>") == 3


def test_text_from_data_is_escaped_everywhere(sweep) -> None:
    evil = "</script><img src=x onerror=alert(1)>&"
    folder = sweep.trial(0, trial=evil, command=evil, eval_manifest=evil, git_commit=evil)
    sweep.trial(1, params=sweep.params(8, 1e-3, 0.0) | {"lora.targets": evil}, cer=0.9, eval_manifest=evil)
    sweep.fail(2, message=evil)
    line = {"id": evil, "repeat": 0, "reference": evil, "hypothesis": evil + evil, "cer": 1.0, "audio": evil}
    sweep.write_lines(folder / "utterances.jsonl", [line])
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


@pytest.mark.parametrize(("launched", "begun"), [(36, "33 trials have not started."), (4, "1 trial has not started.")])
def test_trials_that_wait_are_counted_and_not_called_unfinished(sweep, launched: int, begun: str) -> None:
    sweep.trial(0)
    sweep.fail(1, rate=0.1)
    sweep.start(2, 8, 0.2, 0.0)
    record_jobs(sweep.folder, {number: (sweep.folder / str(number), []) for number in range(launched)})
    comparison = load_sweep(sweep.folder)
    assert effort(comparison).startswith(f"1 trial finished, 1 failed, 1 unfinished, {launched - 3} not started; 1 ")
    said = f"1 个试验已完成、1 个失败、1 个未完成、{launched - 3} 个未开始；"
    assert effort(comparison, CHINESE).startswith(said)
    assert begun in page_of(sweep.folder)
    live = render(comparison, datetime(2026, 1, 1), reload=30)
    assert begun in live and "to resume it" not in live, "it has not stopped"


def test_when_only_waiting_trials_are_missing_it_is_said(sweep) -> None:
    sweep.trial(0)
    record_jobs(sweep.folder, {number: (sweep.folder / str(number), []) for number in range(1)})
    assert 'id="not-finished"' not in page_of(sweep.folder)
    record_jobs(sweep.folder, {number: (sweep.folder / str(number), []) for number in range(2)})
    assert 'id="not-finished"' in page_of(sweep.folder) and 'href="#not-finished"' in page_of(sweep.folder)


@pytest.mark.parametrize(
    ("grid", "charts"),
    [
        ({"ranks": (8,), "rates": (1e-3,), "temperatures": (0.0,)}, ["train-loss", "val-loss"]),
        ({"ranks": (8,), "rates": (1e-3,)}, ["by-decoding.text_temperature", "effects", "train-loss", "val-loss"]),
        (
            {"ranks": (8,), "temperatures": (0.0,), "baseline": False},
            ["by-optim.lr", "effects", "train-loss", "val-loss"],
        ),
    ],
)
def test_smaller_sweeps_leave_out_what_they_cannot_show(sweep, grid: dict[str, Any], charts: list[str]) -> None:
    assert list(specs(page_of(sweep.grid(**grid)))) == charts


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


def test_the_terminal_shows_ranks_bases_and_failures(sweep) -> None:
    sweep.grid(temperatures=(0.0,))
    sweep.fail(6, rate=0.1)
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    print_leaderboard(load_sweep(sweep.folder), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"1\s+32\s+0\.003\s+\d+\.\d\d", text)
    assert re.search(r"base\s+–\s+–\s+68\.00", text)
    assert "FAILED 6" in text and "Best: lora.r=32 optim.lr=0.003" in text
    assert "…" not in text


def test_a_narrow_terminal_keeps_the_main_columns(sweep_24: Path) -> None:
    console = Console(file=io.StringIO(), width=60, force_terminal=False)
    print_leaderboard(load_sweep(sweep_24), console, most_rows=5)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "CER %" in text and "WER" not in text and "…" not in text
    assert "and 23 more rows" in text


def test_the_command_prints_the_path_of_the_report(sweep_24: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(sweep_24)]) == 0
    assert f"Report: {sweep_24.resolve() / 'report.html'}" in capsys.readouterr().out


def test_user_errors_are_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and "is not a folder" in printed.err and printed.err.count("\n") == 1


def test_a_place_that_cannot_be_written_is_a_user_error(sweep_24: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot be written.*--out DIR"):
        write_report(sweep_24, tmp_path / "file")


@pytest.mark.slow
def test_the_command_never_imports_torch(sweep_24: Path) -> None:
    program = (
        "import sys; from multirun_analysis.__main__ import main; main(sys.argv[1:]); "
        "sys.exit(str({'torch', 'transformers', 'lightning', 'wandb'} & set(sys.modules) or '') or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(sweep_24)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
