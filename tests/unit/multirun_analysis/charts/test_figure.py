from __future__ import annotations

import altair as alt

from multirun_analysis.charts.figure import HEIGHT, drawn, layer, quantity, tips
from tests.report_page import values


def test_layers_become_one_valid_specification_with_its_data() -> None:
    rows = [{"x": 1, "cer": 2.0}, {"x": 2, "cer": 1.0}]
    dots = layer(rows, "point", {"x": quantity("x"), "y": quantity("cer"), "tooltip": tips(x="step")})
    spec = drawn([dots, dots], [], adapters=3)
    alt.LayerChart.from_dict(spec)
    assert (spec["width"], spec["height"], spec["usermeta"]["adapters"]) == ("container", HEIGHT, 3)
    assert values(spec) == rows, "which both layers share"
    assert spec["layer"][0]["encoding"]["tooltip"] == [{"field": "x", "type": "nominal", "title": "step"}]


def test_a_legend_entry_is_as_wide_as_the_widest_name_and_han_characters_count_twice() -> None:
    def entry(*names: str) -> float:
        return drawn([layer([], "point", {})], list(names))["usermeta"]["legendEntry"]

    assert entry("abcd", "学习") == entry("abcd") == entry("学习") > entry("abc") > entry()
