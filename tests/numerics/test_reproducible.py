"""Products whose rows do not depend on their number: asked for, and obtained."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from tests.sameness import packs_are_exact

MULTIPLY = "import kimi_audio_ft, torch; torch.ones(8, 8) @ torch.ones(8, 8)"
needs_mkl = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="PyTorch is built without MKL")


def said_by(code: str, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    done = subprocess.run([sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_mkl
def test_mkl_works_in_its_strict_mode() -> None:
    """MKL itself says so (CNR: conditional numerical reproducibility)."""
    assert " CNR:AUTO,STRICT " in said_by(MULTIPLY, MKL_VERBOSE="1")


def test_a_value_of_the_users_own_stays() -> None:
    code = "import os, kimi_audio_ft; print(os.environ['MKL_CBWR'])"
    assert said_by(code, MKL_CBWR="COMPATIBLE") == "COMPATIBLE\n"
    assert said_by(code) == "AUTO,STRICT\n"


@needs_mkl
@pytest.mark.bitwise
def test_packs_are_exact_with_kernels_for_avx2_and_better() -> None:
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512") or os.environ["MKL_CBWR"] != "AUTO,STRICT":
        pytest.skip("MKL promises it with AVX2 or AVX-512, in its strict mode")
    assert packs_are_exact()
