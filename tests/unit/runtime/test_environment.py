"""What a product was made with: recorded beside it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import torch

from kimi_audio_ft import __version__
from kimi_audio_ft.config.train import ModelConfig
from kimi_audio_ft.runtime.environment import environment, git_commit


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_it_names_packages_device_processor_threads_and_precision() -> None:
    facts = environment(ModelConfig(dtype="bfloat16", quantization="nf4"), "cpu")
    assert facts["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    assert {"python", "transformers", "peft", "numpy"} <= set(facts["packages"])
    assert facts["packages"]["kimi_audio_ft"] == __version__
    assert (facts["device"], facts["threads"], facts["precision"]) == (
        "CPU",
        torch.get_num_threads(),
        "nf4 in bfloat16",
    )
    assert facts["processor"]
    assert json.loads(json.dumps(facts)) == facts


def test_the_commit_is_the_packages_own_and_marked_when_files_differ(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    package, installed = tmp_path / "package", tmp_path / "venv" / "package"
    for folder in (package, installed):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
    git(tmp_path, "add", "package")
    git(tmp_path, "commit", "-q", "-m", "one")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert len(head) == 40 and git_commit(package) == head
    assert git_commit(installed) is None  # inside of a repository that it is no part of
    git_commit.cache_clear()
    (package / "__init__.py").write_text("changed = True")
    assert git_commit(package) == f"{head}-dirty"
    assert git_commit(tmp_path.parent) is None
