"""The theme's colours against the page, and against each other, to eyes of four kinds."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import numpy as np
import pytest

from multirun_analysis.charts.figure import FEW_COLOURS, series
from multirun_analysis.report.compiled import PAGE

SCRIPT = (PAGE / "report.js").read_text(encoding="utf-8")
CARDS = {"light": "#ffffff", "dark": "#1a2029"}
DASHES = 5  # that Vega-Lite has
# Machado, Oliveira and Fernandes (2009), full severity: linear RGB as other eyes see it.
EYES = {
    "most": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def colours_of(name: str, scheme: str) -> list[str]:
    """A range of the theme."""
    dark, light = re.findall(rf"{name}: (?:\{{\s*scheme: )?dark\s*\? (\[.*?\])\s*: (\[.*?\])", SCRIPT, re.DOTALL)[0]
    return re.findall(r"#[0-9a-f]{6}", dark if scheme == "dark" else light)


def linear(colour: str) -> np.ndarray[Any, Any]:
    share = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def contrast(first: str, second: str) -> float:
    """Of WCAG 2: 1 to 21."""
    low, high = sorted(float(TO_XYZ[1] @ linear(one)) for one in (first, second))
    return (high + 0.05) / (low + 0.05)


def lab(colour: str, eyes: str) -> np.ndarray[Any, Any]:
    """CIELAB of a colour as these eyes see it."""
    seen = TO_XYZ @ np.clip(EYES[eyes] @ linear(colour), 0, 1) / np.array([0.9505, 1.0, 1.089])
    bent = np.where(seen > 0.008856, np.cbrt(seen), 7.787 * seen + 16 / 116)
    return np.array([116 * bent[1] - 16, 500 * (bent[0] - bent[1]), 200 * (bent[1] - bent[2])])


def nearest(colours: list[str], eyes: str) -> float:
    """The smallest difference (CIE 1976) of any two."""
    return min(
        float(np.linalg.norm(lab(a, eyes) - lab(b, eyes))) for a, b in itertools.combinations(dict.fromkeys(colours), 2)
    )


def along(stops: list[str], count: int) -> list[str]:
    """Colours that Vega takes from a ramp for as many values."""
    rgb = np.array([[int(stop[place : place + 2], 16) for place in (1, 3, 5)] for stop in stops])
    at = np.arange(1, count + 1) / (count + 1) * (len(stops) - 1)
    mixed = [np.interp(at, range(len(stops)), rgb[:, channel]) for channel in range(3)]
    return ["#" + "".join(f"{round(channel[one]):02x}" for channel in mixed) for one in range(count)]


@pytest.mark.parametrize("scheme", CARDS)
def test_colours_stand_out_from_the_page(scheme: str) -> None:
    ramp = [colour for count in range(2, 9) for colour in along(colours_of("ordinal", scheme), count)]
    assert min(contrast(colour, CARDS[scheme]) for colour in colours_of("category", scheme) + ramp) >= 3


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize("scheme", CARDS)
def test_series_stay_apart_to_all_eyes(scheme: str, eyes: str) -> None:
    """Few by their colours alone; many by colour and dash or shape, of which one is another for any two."""
    colours = colours_of("category", scheme)
    assert nearest(colours[:FEW_COLOURS], eyes) >= 19
    assert [*series("line", "name", "abcde")] == ["color", "strokeDash"]
    assert [*series("point", "name", "abcde")] == ["color", "shape"]
    (shapes,) = re.findall(r"symbol: (\[.*?\])", SCRIPT)
    for looks in (DASHES, len(set(json.loads(shapes)))):
        shown = [(colours[number % len(colours)], number % looks) for number in range(16)]
        for look in range(looks):
            same = [colour for colour, of in shown if of == look]
            assert len(set(same)) == len(same) and nearest(same, eyes) >= 15


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize("scheme", CARDS)
def test_values_in_order_stay_apart_along_the_ramp(scheme: str, eyes: str) -> None:
    for count in range(2, 9):
        colours = along(colours_of("ordinal", scheme), count)
        assert nearest(colours, eyes) >= 5
        lightness = [lab(colour, eyes)[0] for colour in colours]
        assert lightness in (sorted(lightness), sorted(lightness, reverse=True)), "in order to any eyes"
