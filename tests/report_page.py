"""Reading a report in tests: its page, its charts and what the terminal shows."""

from __future__ import annotations

import html
import io
import json
import re
from pathlib import Path
from typing import Any

import altair as alt
from rich.console import Console

from multirun_analysis import print_leaderboard, write_report
from multirun_analysis.analysis import Analysis
from multirun_analysis.charts.figure import Figure


def page_of(folder: Path, language: str = "en") -> str:
    """The page that is written for a sweep."""
    return write_report(folder, language=language).html.read_text(encoding="utf-8")


def printed(analysis: Analysis, width: int = 80, **options: Any) -> str:
    """The terminal's leaderboard."""
    out = io.StringIO()
    print_leaderboard(analysis, Console(file=out, width=width, force_terminal=False), **options)
    return out.getvalue()


def body(page: str) -> str:
    """A report without its embedded libraries."""
    return re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)


def section(page: str, name: str) -> str:
    """The section of this id."""
    return page.partition(f'<section id="{name}">')[2].partition("</section>")[0]


def specs(page: str) -> dict[str, Any]:
    """The Vega-Lite specifications in a report."""
    found = re.search(r'<script type="application/json" id="specs">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found.group(1))


def values(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """All inline data rows of a chart."""
    named = [row for rows in spec.get("datasets", {}).values() for row in rows]
    return named + [row for part in [spec, *spec["layer"]] for row in part.get("data", {}).get("values", [])]


def only(figures: list[Figure]) -> tuple[Figure, list[dict[str, Any]]]:
    """The one figure, valid to Vega-Lite's schema, and its data."""
    (figure,) = figures
    alt.LayerChart.from_dict(figure.spec)
    return figure, values(figure.spec)


def visible(page: str) -> str:
    """The text that a person sees, without commands (they are no interface text)."""
    text = re.sub(r"<(script|style|pre)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", " ", text)).replace("\xa0", " ")
