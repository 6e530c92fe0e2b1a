"""Parameters as axes and colours: numbers on a scale, everything else as words."""

from __future__ import annotations

from typing import Any

import pytest

from multirun_analysis.charts.scales import MOST_LEVELS, Scale
from multirun_analysis.messages import CHINESE, ENGLISH


@pytest.mark.parametrize(
    ("param", "values", "kind"),
    [
        ("optim.lr", [1e-5, 1e-3], {"type": "log", "base": 10}),
        ("lora.r", [2, 8], {"type": "log", "base": 2}),
        ("lora.lora_dropout", [0.0, 0.1], {"zero": False}),
    ],
)
def test_numbers_lie_on_a_scale(param: str, values: list[Any], kind: dict[str, Any]) -> None:
    scale = Scale(param, values, ENGLISH)
    axis = scale.x()
    assert axis["type"] == "quantitative" and axis["scale"].items() >= kind.items()
    assert axis["axis"]["values"] == values and scale.position(values[1]) == values[1]


@pytest.mark.parametrize(
    ("param", "values"),
    [("seed", [1, 2]), ("optim.lr", [0.0, 1e-3]), ("use_dora", [True, False]), ("x", ["a", 1])],
)
def test_seeds_booleans_and_what_no_logarithm_takes_are_words(param: str, values: list[Any]) -> None:
    scale = Scale(param, values, ENGLISH)
    axis = scale.x()
    assert axis["type"] == "ordinal" and axis["sort"] == scale.words
    assert scale.position(values[0]) == scale.words[0] == scale.word(values[0])


def test_many_numbers_run_along_a_gradient() -> None:
    few, many = (Scale("optim.lr", [1e-5 * 2**n for n in range(count)], ENGLISH) for count in (8, MOST_LEVELS + 1))
    assert few.look("point")["color"]["type"] == "ordinal" and isinstance(few.colour_of(1e-5), str)
    assert many.look("point")["color"]["scale"] == {"type": "log", "range": "ordinal"} and many.colour_of(1e-5) == 1e-5
    assert "values" not in many.x()["axis"]


def test_an_axis_is_named_in_the_readers_language_and_by_its_option() -> None:
    assert Scale("lora.r", [2, 8], CHINESE).title.count("lora.r") == 1
    assert Scale("lora.r", [2, 8], CHINESE).name == "LoRA 秩"
    assert Scale("new.option", [1, 2], CHINESE).title == "new.option"
