from __future__ import annotations

import json

from multirun_analysis.analysis import Analysis
from multirun_analysis.charts.losses import loss_figures
from multirun_analysis.messages import ENGLISH
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
