"""Labels of long values: short, and different for different values."""

from __future__ import annotations

import html
import json
from typing import Any

import pytest

from multirun_analysis.charts.short_values import CUT, MOST_LETTERS, short_values
from multirun_analysis.messages import ENGLISH
from multirun_analysis.params import identity
from tests.report_page import page_of, section

ATTENTION = ["q_proj", "v_proj"]
PROMPT = "请把下面这一段录音中的语音内容完整地转写成简体中文的文字。"
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def labels(values: list[Any]) -> list[str]:
    found = short_values("lora.target_modules", values, ENGLISH)
    return [found[identity(value)] for value in values]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1e-3, 5e-5], ["0.001", "5e-5"]),
        ([ATTENTION, ALL], ["[q_proj, v_proj]", f"[k_proj, o_proj, {CUT}]"]),
        (["decoder", ALL], ["decoder", f"[q_proj, k_proj, {CUT}]"]),
        ([{"a": 1}, {"layers": [0, 1, 2, 3], "rank": 16, "b": 1}], ["{a: 1}", f"{{laye{CUT}: [0, 1, 2, 3], {CUT}}}"]),
        (
            [{"a_long_key_of_modules": 16}, {"a_long_key_of_modules": 8}],
            [f"{{a_long_key_of_{CUT}: 16}}", f"{{a_long_key_of_m{CUT}: 8}}"],
        ),
        ([PROMPT, PROMPT + "不要标点。"], [f"{CUT}录音中的语音内容完整地转写成简体中文的文字。", f"{CUT}不要标点。"]),
        ([PROMPT, "Hi. " + PROMPT], [f"请把下面这一段录音中的语{CUT}", f"Hi. 请把下面这一段录音中的语{CUT}"]),
        (["(a) " * 9, "- " + "(a) " * 9], ["(a) (a) (a) (a) (a) (a)" + CUT, f"- {CUT}"]),
        (
            ["data/a_first/train.tokens.jsonl", "data/a_second/train.tokens.jsonl"],
            [f"{CUT}a_first{CUT}", f"{CUT}a_second{CUT}"],
        ),
        (["请转写" * 20, "请转写" * 20 + "。"], ["请转写" * 7 + "请转" + CUT, "请转写" * 7 + "请转" + CUT]),
    ],
)
def test_long_values_are_named_by_what_tells_them_apart(values: list[Any], expected: list[str]) -> None:
    found = labels(values)
    if len(set(expected)) == len(expected):
        assert found == expected
    assert len(set(found)) == len(values) and all(len(label) <= MOST_LETTERS + 5 for label in found)


def test_values_alike_in_their_first_letters_are_numbered() -> None:
    same = "x" * 40
    found = labels([[same + "1"], [same + "2"]])
    assert [label[-4:] for label in found] == [" (1)", " (2)"] and len(set(found)) == 2


def test_a_swept_mapping_has_a_short_column_and_tells_the_whole(sweep: Any) -> None:
    for number, modules in enumerate((ATTENTION, ALL)):
        sweep.trial(number, params=sweep.params(8, 1e-3, 0.0) | {"lora.target_modules": modules}, cer=0.1 + number / 9)
    board = html.unescape(section(page_of(sweep.folder), "board"))
    short, whole, key = f"[k_proj, o_proj, {CUT}]", f"[{', '.join(ALL)}]", json.dumps(ALL)
    # In the text too: the page's filter searches it, and a finger has no use for a title.
    assert f'<td class="number" title="{whole}">{short}<span class="unseen"> {whole}</span></td>' in board
    # A link to a filter holds the value itself: a label changes with the other values and the language.
    assert f'<option value="{key}">{short}</option>' in board
    assert json.dumps({"lora.target_modules": key}) in board
