"""The rules of ARCHITECTURE.md that imports and files can break: circles, private names, late imports, full folders."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("kimi_audio_ft", "multirun_analysis")
# Libraries that take long to import. An import inside a function must save one of them.
HEAVY = {
    *("torch", "torchaudio", "transformers", "peft", "pytorch_lightning", "deepspeed", "bitsandbytes", "safetensors"),
    *("wandb", "altair", "vl_convert", "wandb_workspaces", "ray", "optuna", "vllm"),
    *("pandas", "scipy", "numpy", "soundfile", "jinja2", "rich", "huggingface_hub", "hydra", "espeakng_loader"),
    *("pypinyin", "cn2an", "opencc"),
    *("fastapi", "starlette", "uvicorn"),
}
MOST_ROOT_MODULES, MOST_FILES = 16, 15


class Import(NamedTuple):
    """A module that another one imports. late: inside a function; name: what is taken from it, or None."""

    module: str
    name: str | None
    late: bool
    line: int


@cache
def modules() -> dict[str, Path]:
    """Every module of the packages by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            if "plugin" not in path.parts:
                parts = path.relative_to(REPOSITORY).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports_of(module: str) -> tuple[Import, ...]:
    """All imports of a module but those for type checkers."""
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    return tuple(_imports(tree, late=False))


def _imports(node: ast.AST, late: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, None, late, child.lineno) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            for alias in child.names:
                full = f"{child.module}.{alias.name}"
                lazy = imported_at_first_use(child.module or "").get(alias.name)
                inner = (full, None) if full in modules() else (lazy or child.module or "", alias.name)
                yield Import(*inner, late, child.lineno)
        yield from _imports(child, late or isinstance(child, ast.FunctionDef | ast.Lambda))


@cache
def imported_at_first_use(package: str) -> dict[str, str]:
    """Names that a package imports when they are first used, by ``__getattr__``, and their modules."""
    text = modules()[package].read_text(encoding="utf-8") if package in modules() else ""
    if "def __getattr__" not in text:
        return {}
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in nodes for alias in node.names if node.module in modules()}


def own_imports(module: str, late: bool | None = None) -> set[str]:
    """Modules of ours that a module imports."""
    return {i.module for i in imports_of(module) if i.module in modules() and late in (None, i.late)} - {module}


@cache
def heavy_libraries(module: str) -> frozenset[str]:
    """Heavy libraries that importing a module brings in, through whatever modules of ours."""
    seen, todo, found = set(), [module], set()
    while todo:
        here = todo.pop()
        if here in seen:
            continue
        seen.add(here)
        found |= {i.module.partition(".")[0] for i in imports_of(here) if not i.late} & HEAVY
        todo += own_imports(here, late=False)
        parent = here.rpartition(".")[0]
        todo += [parent] if parent in modules() else []
    return frozenset(found)


def circles() -> list[list[str]]:
    """Groups of modules that import each other, directly or not (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(own_imports(module)):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = [stack.pop()]
            while group[-1] != module:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for module in modules():
        if module not in index:
            visit(module)
    return found


def test_no_module_imports_itself_through_others_even_inside_functions() -> None:
    assert circles() == []


def test_private_names_stay_in_their_module() -> None:
    borrowed = [
        f"{module}:{i.line} imports {i.module}.{i.name}"
        for module in modules()
        for i in imports_of(module)
        if i.module in modules() and i.name is not None and i.name.startswith("_") and not i.name.startswith("__")
    ]
    assert borrowed == []


def test_an_import_inside_a_function_saves_a_heavy_library() -> None:
    needless = []
    for module in modules():
        for i in imports_of(module):
            library = i.module.partition(".")[0]
            brought = heavy_libraries(i.module) if i.module in modules() else {library} & HEAVY
            if i.late and not brought - heavy_libraries(module):
                needless.append(f"{module}:{i.line} imports {i.module} inside a function")
    assert needless == []


def test_the_analysis_reads_files_and_never_imports_the_engine() -> None:
    allowed = {"config", "errors", "files", "manifest", "paths", "scoring", "store", "sweep_folder", "text", "runtime"}
    rooms = {
        f"{module}: {other}"
        for module in modules()
        if module.startswith("multirun_analysis")
        for other in own_imports(module)
        if other.startswith("kimi_audio_ft.") and other.split(".")[1] not in allowed
    }
    assert rooms == set()


@cache
def line_of_room(package: str) -> dict[str, int]:
    """Number of the line, in ARCHITECTURE.md's table of a package, on which a folder or module stands."""
    text = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = text.partition(f"| `{package}/` | holds |")[2].partition("\n\n")[0].splitlines()
    names = [re.findall(r"`([\w.]+?)(?:/|\.py)`", row.split("|")[1]) for row in rows if row.startswith("| `")]
    return {name: number for number, named in enumerate(names) for name in named}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_module_imports_only_from_its_line_of_architecture_md_and_those_above(package: str) -> None:
    lines = line_of_room(package)
    upwards = []
    for module in modules():
        for other in own_imports(module):
            one, two = module.split(".")[:2], other.split(".")[:2]
            inside = one[0] == two[0] == package and len(one) == len(two) == 2 and "__main__" not in one
            if inside and lines[two[1]] > lines[one[1]]:
                upwards.append(f"{module} imports {other}")
    assert upwards == []


@pytest.mark.parametrize("package", PACKAGES)
def test_folders_read_as_a_table_of_contents(package: str) -> None:
    for folder in [REPOSITORY / package, *(REPOSITORY / package).rglob("*")]:
        files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        most = MOST_ROOT_MODULES if folder.name == "kimi_audio_ft" else MOST_FILES
        assert len(files) <= most, f"{folder}: {len(files)} modules"


# Commands that must answer at once, and what all of them do without.
COMMANDS = (
    "train",
    "evaluate",
    "prepare",
    "tokenize",
    "merge",
    "export_adapter",
    "transcribe.__main__",
    "combine.__main__",
    "serve.__main__",
    "store.__main__",
)
WITHOUT = {"torch", "transformers", "peft", "pytorch_lightning", "wandb", "ray", "scipy", "altair", "vl_convert"}
STARTS = [*(f"kimi_audio_ft.{name}" for name in COMMANDS), "multirun_analysis.__main__"]


def test_commands_start_without_heavy_libraries() -> None:
    code = f"import sys, {', '.join(STARTS)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert WITHOUT & set(loaded) == set()
