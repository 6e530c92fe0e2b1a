"""README.md and the pages of docs/: their sections, and the commands of their bash blocks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from string import Template

REPOSITORY = Path(__file__).resolve().parent.parent
FILES = {path.stem: path for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))}
TEXTS = {page: path.read_text(encoding="utf-8") for page, path in FILES.items()}


def sections(page: str) -> dict[str, str]:
    """Texts by their headings; what stands before the first heading, by the page's title."""
    title, *headed = f"\n#{TEXTS[page]}".split("\n## ")[1:]
    return {heading: text for heading, _, text in (part.partition("\n") for part in (title, *headed))}


def commands(page: str, section: str) -> list[list[str]]:
    """The words of every command in a section's bash blocks, with $NAMES put in."""
    names: dict[str, str] = {}
    found = []
    for block in re.findall(r"```bash\n(.*?)```", sections(page)[section], flags=re.DOTALL):
        for line in whole_lines(block.replace("\\\n", " ")):
            words = shlex.split(Template(line).safe_substitute(names), comments=True)
            assigned = re.fullmatch(r"([A-Z]+)=(.*)", words[0]) if len(words) == 1 else None
            if assigned:
                names[assigned[1]] = assigned[2]
            elif words:
                found.append(words)
    return found


def whole_lines(block: str) -> Iterator[str]:
    """Lines, those with quotes that go on in the next one together."""
    line = ""
    for part in block.splitlines(keepends=True):
        line += part
        try:
            shlex.split(line, comments=True)
        except ValueError:
            continue
        yield line
        line = ""
    assert not line, "an open quote"


def spans() -> Iterator[str]:
    """What stands between single backticks outside of blocks, on all pages."""
    for text in TEXTS.values():
        yield from re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
