"""Compiled templates are kept beside them, and never used for another text or another environment's rules."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from jinja2 import Environment, FileSystemLoader

from multirun_analysis.report.compiled import CompiledTemplates


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    (tmp_path / "page.j2").write_text("{{ 1 + 1 }} {{ '<' }}", encoding="utf-8")
    return tmp_path


def rendered(folder: Path, autoescape: bool = False) -> str:
    cache = CompiledTemplates(folder)
    environment = Environment(loader=FileSystemLoader(folder), autoescape=autoescape, bytecode_cache=cache)
    return environment.get_template("page.j2").render()


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "__pycache__").glob("*"))


def test_what_is_kept_is_used_until_the_text_or_the_rules_change(folder: Path) -> None:
    assert rendered(folder) == "2 <"
    (file,) = kept(folder)
    kept_then = file.read_bytes()
    file.write_bytes(kept_then.replace(b"root", b"toor"))
    with pytest.raises(KeyError):  # so it was used
        rendered(folder)
    file.write_bytes(kept_then)
    assert rendered(folder, autoescape=True) == "2 &lt;" and len(kept(folder)) == 2
    (folder / "page.j2").write_text("{{ 3 }}", encoding="utf-8")
    assert rendered(folder) == "3" and rendered(folder, autoescape=True) == "3"


def test_half_a_file_is_compiled_again(folder: Path) -> None:
    rendered(folder)
    (file,) = kept(folder)
    whole = file.read_bytes()
    for length in (0, 10, len(whole) - 7):
        file.write_bytes(whole[:length])
        assert rendered(folder) == "2 <" and file.read_bytes() == whole


@pytest.mark.parametrize("why", ["a file in the way", "told not to"])
def test_nothing_is_kept_where_python_would_keep_nothing(
    folder: Path, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "told not to":
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
    else:
        (folder / "__pycache__").write_text("", encoding="utf-8")
    assert rendered(folder) == "2 <" and kept(folder) == []
