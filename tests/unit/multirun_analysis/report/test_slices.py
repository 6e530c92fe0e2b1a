from __future__ import annotations

import json
from typing import Any

from kimi_audio_ft.files import read_jsonl
from multirun_analysis import load_sweep
from multirun_analysis.report.page import write_report
from tests.report_page import section
from tests.synthetic_sweep import write_ranks


def test_the_page_and_the_tables_have_the_slices(tmp_path: Any, sweep: Any) -> None:
    folder = write_ranks(tmp_path / "ranks", {8: 1.0, 32: 1.4}, utterances=120, recordings=24)
    for file in folder.glob("*/*utterances.jsonl"):
        rows = list(read_jsonl(file))
        for number, row in enumerate(rows):
            row["columns"] = {"<city>": ["北京", "<b>", ""][number % 3], "id": str(number)}
        sweep.write_lines(file, rows)
    paths = write_report(folder)
    found = {one["column"]: one for one in json.loads(paths.json.read_text(encoding="utf-8"))["slices"]}
    assert list(found) == ["seconds", "<city>", "id"] and len(found["seconds"]["slices"]) == 4
    assert [one["utterances"] for one in found["<city>"]["slices"]] == [40, 40, 40]
    assert {one["verdict"] for one in found["<city>"]["slices"]} == {"help"}  # the base makes twice the errors
    chosen = load_sweep(folder).statistics.choice
    rows = [row for row in read_jsonl(chosen.folder / "utterances.jsonl") if row["columns"]["<city>"] == "北京"]
    rate = sum(row["edits"] for row in rows) / sum(row["chars"] for row in rows)
    assert abs(next(one for one in found["<city>"]["slices"] if one["value"] == "北京")["rate"] - rate) < 1e-8
    page = paths.html.read_text(encoding="utf-8")
    table = section(page, "slices")
    assert "Where it helps, and where it hurts" in table and "(empty)" in table and "helps" in table
    assert "<b>&lt;city&gt;</b>" in table and "&lt;b&gt;</th>" in table and 'href="#slices"' in page
