"""The guides name files, definitions, modules and make targets that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import pytest

from kimi_audio_ft import __version__

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("kimi_audio_ft", "multirun_analysis")
GUIDES = ("ARCHITECTURE.md", "CONTRIBUTING.md")
DOCUMENTS = (*GUIDES, "README.md", *(f"docs/{path.name}" for path in sorted((REPOSITORY / "docs").glob("*.md"))))
# A file or folder, relative to the repository or to a package, and perhaps what it defines: `store/make.py:find`.
PATH = re.compile(r"(?P<path>[\w.-]+(?:/[\w.-]+)*(?:/|\.(?:py|md|yaml|cfg|toml)))(?::(?P<name>\w+(?:\.\w+)*))?")


@cache
def text_of(document: str) -> str:
    return (REPOSITORY / document).read_text(encoding="utf-8")


def spans(document: str) -> list[str]:
    """All that stands in single backticks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text_of(document), flags=re.DOTALL))


def named_paths(document: str) -> set[tuple[str, str | None]]:
    """Paths in backticks, each with the name after its colon."""
    found = (PATH.fullmatch(span) for span in spans(document))
    return {(match["path"], match["name"]) for match in found if match is not None}


def located(path: str) -> Path | None:
    places = (REPOSITORY / path, *(REPOSITORY / package / path for package in PACKAGES))
    return next((place for place in places if place.exists()), None)


@cache
def definitions(file: Path) -> set[str]:
    """Classes, functions and constants of a module, and the methods of its classes as ``Class.method``."""

    def names(body: list[ast.stmt], prefix: str = "") -> set[str]:
        found: set[str] = set()
        for statement in body:
            if isinstance(statement, ast.ClassDef):
                found |= {prefix + statement.name} | names(statement.body, f"{prefix}{statement.name}.")
            elif isinstance(statement, ast.FunctionDef):
                found.add(prefix + statement.name)
            elif isinstance(statement, ast.Assign | ast.AnnAssign):
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                found |= {prefix + target.id for target in targets if isinstance(target, ast.Name)}
        return found

    return names(ast.parse(file.read_text(encoding="utf-8")).body)


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## (\S+) \(\d{4}-\d\d-\d\d\)$", text_of("CHANGELOG.md"), flags=re.MULTILINE)
    assert versions[0] == __version__ and len(versions) == 2


@pytest.mark.parametrize("document", GUIDES)
def test_every_path_exists_and_defines_what_is_named(document: str) -> None:
    paths = named_paths(document)
    assert len(paths) > 5
    wrong = []
    for path, name in sorted(paths, key=str):
        place = located(path)
        if place is None:
            wrong.append(path)
        elif name is not None and name not in definitions(place):
            wrong.append(f"{path}:{name}")
    assert wrong == []


def test_every_folder_and_module_of_the_packages_is_explained() -> None:
    explained = {path.rstrip("/") for path, _ in named_paths("ARCHITECTURE.md")}
    for package in PACKAGES:
        for place in (REPOSITORY / package).iterdir():
            if place.name.startswith("__") or (place.is_file() and place.suffix != ".py"):
                continue
            assert {place.name, f"{package}/{place.name}"} & explained, f"{package}/{place.name} is not in the tables"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_module_that_is_run_exists(document: str) -> None:
    modules = set(re.findall(r"python3? -m ([a-z_][\w.]*)", text_of(document))) - {"pytest", "pip", "venv"}
    for module in modules:
        assert find_spec(module) is not None, module
        if find_spec(module).submodule_search_locations is not None:  # type: ignore[union-attr]
            assert find_spec(f"{module}.__main__") is not None, f"{module} cannot be run"


def test_every_make_target_exists() -> None:
    named = set(chain.from_iterable(re.findall(r"`make ([a-z-]+)`", text_of(document)) for document in DOCUMENTS))
    assert {"demo", "test", "check", "venv"} <= named
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), flags=re.MULTILINE))
    assert named <= targets


def test_make_clean_leaves_the_store() -> None:
    """outputs/store may hold days of training."""
    (removed,) = re.findall(r"^clean:\n\trm -rf (.+)$", text_of("Makefile"), flags=re.MULTILINE)
    assert removed.split() == ["$(DEMO)", ".venv", "$(NEWEST)"] and "\nDEMO := outputs/demo\n" in text_of("Makefile")
