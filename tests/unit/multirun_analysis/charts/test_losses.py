from __future__ import annotations

import json
from typing import Any

from multirun_analysis.analysis import Analysis, analyse
from multirun_analysis.charts.losses import loss_figures
from multirun_analysis.messages import ENGLISH
from multirun_analysis.sweep import collect
from tests.report_page import values


def test_both_losses_have_the_same_axes(synthetic: Analysis) -> None:
    train, val = (figure.spec["layer"][0]["encoding"] for figure in loss_figures(synthetic, ENGLISH))
    assert train["x"] == val["x"] and train["y"] == val["y"] and train["y"]["scale"]["domain"][1] > 1


def test_the_turn_of_a_validation_loss_is_ringed(synthetic: Analysis) -> None:
    figures = {figure.key: figure for figure in loss_figures(synthetic, ENGLISH)}
    (ring,) = [layer for layer in figures["val-loss"].spec["layer"] if layer["mark"].get("style") == "ring"]
    (mark,) = ring["data"]["values"] if "values" in ring.get("data", {}) else values(figures["val-loss"].spec)[-1:]
    assert mark["adapter"] == "lora.r=32 optim.lr=1e-4" and mark["step"] == 300
    assert "later steps overfit" in figures["val-loss"].caption
    assert "overfit" not in json.dumps(figures["train-loss"].spec) + figures["train-loss"].caption


def test_norms_of_gradients_have_a_chart_where_they_were_recorded(sweep: Any) -> None:
    folder = sweep.trial(0)
    rows = [{"step": step, "split": "train", "loss": 2.0, "grad_norm": step / 10} for step in (1, 2)]
    sweep.write_lines(folder / "curves.jsonl", [*rows, {"step": 3, "split": "train", "loss": 2.0}])
    _, norms = loss_figures(analyse(collect(sweep.folder)), ENGLISH)
    points = [(row["step"], row["grad_norm"]) for row in values(norms.spec)]
    assert norms.key == "grad-norm" and points == [(1, 0.1), (2, 0.2)]
