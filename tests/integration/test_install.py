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

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SHARE = "kimi_audio_ft/share/"
# Not part of the sources, and large.
LEFT_OUT = shutil.ignore_patterns(".*", "outputs", "build", "dist", "*.egg-info", "__pycache__", "tests", "wandb")

pytestmark = pytest.mark.slow


def run(*command: str | Path, folder: Path, python_path: Path | None = None) -> str:
    """Run a command in a folder, away from the checkout's PYTHONPATH; returns its standard output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if python_path is not None:
        environment["PYTHONPATH"] = str(python_path)
    done = subprocess.run([str(c) for c in command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


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
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert packaged == own
    assert any(name.startswith("kimi_audio_ft/assets/tiny/whisper-large-v3/") for name in packaged)


def test_commands_find_their_configs_away_from_the_checkout(python: Path, tmp_path: Path) -> None:
    where = (
        "import kimi_audio_ft.paths as p; print(p.PACKAGE, p.project_root(), (p.TINY_MODEL / 'config.json').is_file())"
    )
    package, root, has_model = run(python, "-c", where, folder=tmp_path).split()
    assert Path(package).is_relative_to(python.parent.parent)
    assert Path(root) == Path(package) / "share"
    assert has_model == "True"
    composed = run(python, "-m", "kimi_audio_ft.train", "+experiments=demo", "--cfg", "job", folder=tmp_path)
    assert "path: tiny" in composed and "lora_alpha: null" in composed
    for command in ("prepare", "tokenize", "evaluate"):
        assert "==" in run(python, "-m", f"kimi_audio_ft.{command}", "--help", folder=tmp_path)


def test_a_wheel_in_a_target_folder_finds_its_configs(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "packages"
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", target)
    run(*pip, wheel, folder=tmp_path)
    train = (sys.executable, "-m", "kimi_audio_ft.train", "+experiments=demo", "--cfg", "job")
    assert "path: tiny" in run(*train, folder=tmp_path, python_path=target)
    where = (sys.executable, "-c", "import kimi_audio_ft.paths as p; print(p.project_root())")
    assert run(*where, folder=tmp_path, python_path=target).strip() == str(target / SHARE).rstrip("/")


def test_installed_commands_read_the_embedded_model(python: Path, corpus: Path, tmp_path: Path) -> None:
    csv = f"csv={corpus / 'corpus.csv'}"
    run(python, "-m", "kimi_audio_ft.prepare", csv, "out=data", "max_refused=0.25", folder=tmp_path)
    run(python, "-m", "kimi_audio_ft.tokenize", "manifests=[data/eval.jsonl]", "progress=false", folder=tmp_path)
    assert "audio_tokens" in (tmp_path / "data" / "eval.tokens.jsonl").read_text(encoding="utf-8")
