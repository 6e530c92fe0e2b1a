"""The dashboard as it would be sent, and the errors of somebody who cannot send it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.config.train import RATES
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.scoring.ranking import rate_of
from kimi_audio_ft.tracking import wandb
from multirun_analysis.compare import LEADING_PARAMS as PARAMS
from multirun_analysis.wandb_view import RANKS, SUMMARY, TRIAL_NUMBER, build_report, main, save, split_project


def of_kind(report: Any, kind: str) -> list[Any]:
    """The panels of this class."""
    panels = [panel for block in report.blocks if type(block).__name__ == "PanelGrid" for panel in block.panels]
    return [panel for panel in panels if type(panel).__name__ == kind]


def leaves(node: dict[str, Any]) -> list[tuple[str, Any]]:
    """Names and values that a tree of filters compares."""
    if node.get("key"):
        return [(node["key"]["name"], node["value"])]
    return [leaf for child in node.get("filters") or [] for leaf in leaves(child)]


def sent(report: Any) -> str:
    """What would go over the wire."""
    return report._to_model().model_dump_json(by_alias=True, exclude_none=True)


def test_parameters_lead_to_the_error_rate() -> None:
    report = build_report("team", "project", "Night", None, PARAMS, "cer")
    assert (report.entity, report.project, report.title) == ("team", "project", "Night")
    (lines,) = of_kind(report, "ParallelCoordinatesPlot")
    assert [column.metric.name for column in lines.columns] == [*PARAMS, "cer"]
    assert [type(column.metric).__name__ for column in lines.columns] == ["Config"] * 3 + ["SummaryMetric"]
    points = of_kind(report, "ScatterPlot")
    assert [(point.x.name, point.y.name, bool(point.log_x)) for point in points] == [
        ("lora.r", "cer", False),
        ("optim.lr", "cer", True),
        ("decoding.text_temperature", "cer", False),
    ]


def test_trials_stand_in_the_order_that_ranks_them() -> None:
    for asked, first, titles in (
        (None, "rate", "Error rate by"),
        ("pinyin", "pinyin_error_rate", "Syllable error rate by"),
    ):
        report = build_report("team", "project", "Night", None, PARAMS, asked)
        trials = next(block.runsets[0] for block in report.blocks if type(block).__name__ == "PanelGrid")
        assert [order.name.name for order in trials.order] == [first, "cer"] and all(o.ascending for o in trials.order)
        assert trials.pinned_columns[0] == "config:trial_number.value" and f"summary:{first}" in trials.pinned_columns
        points = of_kind(report, "ScatterPlot")
        assert {point.y.name for point in points} == {first} and points[0].title == f"{titles} lora.r"
        assert [column.metric.name for column in of_kind(report, "ParallelCoordinatesPlot")[0].columns][-1] == first
    scores = {"cer": 1.0, "mer": 2.0, "wer": 3.0, "pinyin_error_rate": 4.0, "normalised": {"cer": 5.0}}
    summary = wandb.summary_of(scores)
    assert {rate: summary[SUMMARY[rate]] for rate in RATES} == {rate: rate_of(scores, rate) for rate in RATES}
    assert (RANKS, TRIAL_NUMBER) == (wandb.RATE, wandb.TRIAL_NUMBER)


def test_curves_and_tables() -> None:
    report = build_report("team", "project", "Night", None, ["lora.r"])
    curves = {str(getattr(panel.y[0], "name", panel.y[0])) for panel in of_kind(report, "LinePlot")}
    assert curves == {"train/loss", "val/loss", "train/lr"}
    assert {panel.table_name for panel in of_kind(report, "WeavePanelSummaryTable")} == {"leaderboard", "utterances"}
    assert len(of_kind(report, "ScatterPlot")) == 1
    shown = {metric.name for panel in of_kind(report, "BarPlot") for metric in panel.metrics}
    assert {"cer", "deletions", "errors/number_value"} <= shown


def test_one_sweep_or_all() -> None:
    everything, one = (sent(build_report("team", "project", "t", group, PARAMS)) for group in (None, "outputs/night"))
    assert "outputs/night" in one and "outputs/night" not in everything
    for document in (everything, one):
        assert '"trial"' in document and '"report"' in document  # the job types of the two kinds of runs


def test_a_sweeps_name_may_hold_anything() -> None:
    group = """outputs/lr=0.1, r<8 'and' "or" \\ (会议)"""
    (runset, *_) = (block.runsets[0] for block in build_report("team", "p", "t", group, PARAMS).blocks[2:3])
    document = json.loads(runset._to_model().model_dump_json(by_alias=True))
    assert leaves(document["filters"]) == [("jobType", "trial"), ("group", group)]


@pytest.mark.parametrize("name", ["project", "a/b/c", "/b", "a/", "a b/c"])
def test_a_project_is_named_with_its_entity(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 2
    assert f"ENTITY/PROJECT={name!r}" in capsys.readouterr().err
    assert split_project("my-team/my.project_1") == ("my-team", "my.project_1")


def test_offline_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(UserError, match=r"offline here.*wandb login.*wandb sync"):
        save(build_report("team", "project", "t", None, PARAMS))


class Refusing(BaseHTTPRequestHandler):
    """A W&B server where this key may do nothing."""

    def do_POST(self) -> None:
        self.send_error(403)

    do_GET = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


@pytest.fixture
def server() -> Iterator[str]:
    """Address of a server that refuses everything."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.slow
def test_a_server_that_refuses_is_an_error_without_the_key(server: str, tmp_path: Path) -> None:
    """In a process of its own, since wandb keeps what it found out about the login."""
    key = "0123456789abcdef" * 3
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    account = {"WANDB_BASE_URL": server, "WANDB_API_KEY": key, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "multirun_analysis.wandb_view", "team/project"],
        env={**clean, **account, "PYTHONPATH": str(Path(__file__).parents[3])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    assert "W&B: team/project: the dashboard cannot be created" in done.stderr
    assert key not in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert main(["team/project"]) == 2
    assert "pip install wandb-workspaces" in capsys.readouterr().err
