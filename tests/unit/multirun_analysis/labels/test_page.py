"""labels.html: what it shows of each suspect, and the file of decisions that it makes."""

from __future__ import annotations

import csv
import html
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from kimi_audio_ft.corpus.decisions import Decisions
from multirun_analysis.labels.__main__ import main
from tests.unit.multirun_analysis.labels.conftest import plant_kinds, write_evaluation

DECIDE = """
const [first, second, third] = items;
text(first).value = '=改"好"，吧'; text(first).dispatchEvent(new Event("input"));
second.querySelector("button").click();
radios(third)[2].click();
const lines = [["id", "reference", "decision", "correction"], ...rows()].map((row) => row.map(cell).join(","));
document.body.dataset.told = [output.textContent, save.disabled, ...lines].join("\\n");
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    plant_kinds(folder, 3, references=80)
    assert main([str(folder), "--shown", "5"]) == 0
    return folder / "labels.html"


def test_every_suspect_is_shown_with_its_word_and_what_was_heard(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    with (page.parent / "suspects.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))[:5]
    assert re.findall(r'<li data-id="(.*?)"', text) == [row["id"] for row in rows]
    assert "The 5 most suspicious references of 80" in text and "://" not in re.sub(r"<script>.*?</script>", "", text)
    for row, item in zip(rows, re.findall(r"<li data-id.*?</li>", text, flags=re.DOTALL), strict=True):
        word = "" if row["suspect_word"] == "(end)" else row["suspect_word"]
        assert html.unescape(re.findall(r"<mark>(.*?)</mark>", item)[0]).replace(" (ends here?)", "") == word
        assert row["reasons"] in html.unescape(item) and f'data-heard="{row["best_hypothesis"]}"' in item


def test_the_chinese_page_has_chinese_reasons_beside_the_same_csv(page: Path) -> None:
    assert main([str(page.parent), "--shown", "80", "--out", str(page.parent / "zh.csv"), "--language", "zh"]) == 0
    notes = re.findall(r'<p class="note">(.*?)</p>', (page.parent / "zh.html").read_text(encoding="utf-8"))
    said = " ".join(re.sub(r"&#39;.*?&#39;", "", html.unescape(note).replace("'", "&#39;")) for note in notes)
    assert len(notes) == 80 and "的损失是通常的" in said and "个适配器中有" in said and not re.search("[a-z]{3}", said)
    assert (page.parent / "zh.csv").read_bytes() == (page.parent / "suspects.csv").read_bytes()


def test_texts_are_no_markup_and_chinese_is_spoken(tmp_path: Path) -> None:
    row = {
        "id": "<b>",
        "repeat": 0,
        "reference": "<i>",
        "hypothesis": "</script>",
        "audio": None,
        "cer": 0.0,
        "loss": 1.0,
    }
    write_evaluation(tmp_path / "0", "one", [row])
    assert main([str(tmp_path), "--out", str(tmp_path / "list.csv"), "--language", "zh"]) == 0
    text = (tmp_path / "list.html").read_text(encoding="utf-8")
    assert "最可疑的 1 条" in text and "&lt;/script&gt;" in text and "<i>" not in text and 'data-id="<b>"' not in text
    assert main([str(tmp_path), "--shown", "0"]) == 2


@pytest.mark.slow
def test_the_browser_saves_what_prepare_reads(page: Path, tmp_path: Path, chromium: Callable[..., str]) -> None:
    copy = tmp_path / "labels.html"
    copy.write_text(page.read_text("utf-8").replace("</body>", f"<script>{DECIDE}</script></body>"), encoding="utf-8")
    found = re.search(r'<body data-told="([^"]*)"', chromium(copy, "--dump-dom"))
    assert found is not None
    told, disabled, *lines = html.unescape(found[1]).splitlines()
    assert told == "3 of 5 decided" and disabled == "false"
    file = tmp_path / "decisions.csv"
    file.write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    first, second, third = Decisions.read(str(file)).by_id.values()
    assert (first.decision, first.correction) == ("correct", '=改"好"，吧')
    assert second.decision == "correct" and f'data-heard="{second.correction}"' in page.read_text(encoding="utf-8")
    assert third.decision == "drop"
