"""What a result was made with and on: all that its last digits may depend on and its signature leaves out."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kimi_audio_ft import __version__
from kimi_audio_ft.config.train import ModelConfig
from kimi_audio_ft.paths import PACKAGE
from kimi_audio_ft.runtime.devices import device

_PACKAGES = ("torch", "transformers", "peft", "pytorch-lightning", "safetensors", "numpy")


def environment(model: ModelConfig, accelerator: str) -> dict[str, Any]:
    """Facts for ``product.json`` about this process: packages, device, processor, threads, precision, commit."""
    import torch

    target = device(accelerator)
    return {
        "packages": _packages(),
        "device": torch.cuda.get_device_name(target) if target.type == "cuda" else "CPU",
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "mkl": os.environ.get("MKL_CBWR"),
        "precision": " in ".join(filter(None, (model.quantization, model.dtype))),
        "commit": git_commit(),
    }


@cache
def _packages() -> dict[str, str]:
    # Our own by the code: what pip has noted of an editable installation is that of its day.
    found = {"python": platform.python_version(), "kimi_audio_ft": __version__}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


@cache
def _processor() -> str:
    """Its name as Linux tells it, else its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def git_commit(package: Path = PACKAGE) -> str | None:
    """Commit of the checkout that the package is part of, with ``-dirty`` if its files differ; None outside of one.

    An installed package may lie inside the repository of something else, whose commit says nothing about it.
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return _git(package, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
