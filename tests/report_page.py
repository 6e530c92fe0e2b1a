"""Reading a report's HTML in tests."""

from __future__ import annotations

import html
import json
import re
from typing import Any


def body(page: str) -> str:
    """A report without its embedded libraries."""
    return re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)


def specs(page: str) -> dict[str, Any]:
    """The Vega-Lite specifications in a report."""
    found = re.search(r'<script type="application/json" id="specs">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found.group(1))


def values(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """All inline data rows of a chart."""
    named = [row for rows in spec.get("datasets", {}).values() for row in rows]
    return named + [row for part in [spec, *spec["layer"]] for row in part.get("data", {}).get("values", [])]


def visible(page: str) -> str:
    """The text that a person sees, without commands (they are no interface text)."""
    text = re.sub(r"<(script|style|pre)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", " ", text))
