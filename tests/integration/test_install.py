"""The wheel, installed away from the checkout: configs, studies, the embedded model and the report's templates."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SHARE = "kimi_audio_ft/share/"
# Not part of the sources, and large.
LEFT_OUT = shutil.ignore_patterns(".*", "outputs", "build", "dist", "*.egg-info", "__pycache__", "tests", "wandb")

COMPOSE = ("kimi_audio_ft.train", "+experiments=demo", "--cfg", "job")
END = "--- end ---"
# Starting a Python for each takes longer than the commands do.
RUN_ALL = f"""
import runpy, sys
from hydra.core.global_hydra import GlobalHydra
BEFORE
for command in COMMANDS:
    print({END!r})
    sys.argv = list(command)
    GlobalHydra.instance().clear()
    try:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise
"""

pytestmark = pytest.mark.slow


def run(*command: str | Path, folder: Path, python_path: Path | None = None) -> str:
    """Run a command in a folder, away from the checkout's PYTHONPATH; returns its standard output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if python_path is not None:
        environment["PYTHONPATH"] = str(python_path)
    done = subprocess.run([str(c) for c in command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_all(python: Path | str, before: str, *commands: tuple[str, ...], folder: Path, **options: Any) -> list[str]:
    """What one new Python prints that runs some code, and then each command as ``python -m`` does."""
    program = RUN_ALL.replace("BEFORE", before).replace("COMMANDS", repr(commands))
    return run(python, "-c", program, folder=folder, **options).split(END)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that no `build/` appears in the checkout; nothing is downloaded."""
    pytest.importorskip("setuptools", reason="building offline needs setuptools in this environment")
    place = tmp_path_factory.mktemp("wheel")
    shutil.copytree(REPOSITORY, place / "source", ignore=LEFT_OUT)
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    run(*pip, "--wheel-dir", place, place / "source", folder=place)
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python in an environment with the wheel; the other packages are this environment's own."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False, symlinks=True)
    python = place / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet")
    run(*pip, wheel, folder=place)
    # Paths in a .pth file are plain paths: the checkout's own editable install, if any, is not found through them.
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()) + "\n", encoding="utf-8")
    return python


def test_wheel_holds_every_file_that_is_not_python(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name for name in names if not name.endswith((".py", "/")) and ".dist-info/" not in name}
    data = {name.removeprefix(SHARE) for name in inside if name.startswith(SHARE)}
    packaged = {name for name in inside if not name.startswith(SHARE)}
    sources = [path for kind in ("conf/**/*.yaml", "experiments/*.yaml", "docs/*.md") for path in REPOSITORY.glob(kind)]
    assert data == {str(path.relative_to(REPOSITORY)) for path in sources}
    own = {
        str(path.relative_to(REPOSITORY))
        for package in ("kimi_audio_ft", "multirun_analysis")
        for path in (REPOSITORY / package).rglob("*")
        if path.is_file() and path.suffix != ".py" and path.parent.name != "__pycache__"
    }
    assert packaged == own
    assert any(name.startswith("kimi_audio_ft/assets/tiny/whisper-large-v3/") for name in packaged)


def test_commands_find_their_configs_away_from_the_checkout(python: Path, tmp_path: Path) -> None:
    where = "import kimi_audio_ft.paths as p; print(p.PACKAGE, p.project_root(), p.TINY_MODEL)"
    helps = [(f"kimi_audio_ft.{command}", "--help") for command in ("prepare", "tokenize", "evaluate")]
    found, composed, *helped = run_all(python, where, COMPOSE, *helps, folder=tmp_path)
    package, root, model = map(Path, found.split())
    assert package.is_relative_to(python.parent.parent) and root == package / "share"
    assert (model / "config.json").is_file()
    assert "path: tiny" in composed and "lora_alpha: null" in composed
    assert len(helped) == 3 and all("==" in text for text in helped)


def test_a_wheel_in_a_target_folder_finds_its_configs(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "packages"
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", target)
    run(*pip, wheel, folder=tmp_path)
    where = "import kimi_audio_ft.paths as p; print(p.project_root())"
    found, composed = run_all(sys.executable, where, COMPOSE, folder=tmp_path, python_path=target)
    assert "path: tiny" in composed and found.strip() == str(target / SHARE).rstrip("/")


def test_installed_commands_read_the_embedded_model(python: Path, corpus: Path, tmp_path: Path) -> None:
    prepare = ("kimi_audio_ft.prepare", f"csv={corpus / 'corpus.csv'}", "out=data", "max_refused=0.25")
    tokenize = ("kimi_audio_ft.tokenize", "manifests=[data/eval.jsonl]", "progress=false")
    run_all(python, "", prepare, tokenize, folder=tmp_path)
    assert "audio_tokens" in (tmp_path / "data" / "eval.tokens.jsonl").read_text(encoding="utf-8")
