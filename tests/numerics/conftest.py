"""What the comparisons with the published model share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from kimi_audio_ft.model import KimiAudioConfig, KimiAudioForCausalLM
from kimi_audio_ft.runtime.libraries import quiet_libraries
from tests.numerics.pack_lab import Lab


@pytest.fixture(scope="session")
def fitted_alone(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Remembers what was fitted alone."""
    return Lab(tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("unused"))


@pytest.fixture
def lab(fitted_alone: Lab, tmp_path: Path) -> Lab:
    """Fits packs for one test, and their members alone for all tests."""
    quiet_libraries()
    fitted_alone.place = tmp_path
    return fitted_alone


@pytest.fixture
def golden_model(shared_dir: Path) -> KimiAudioForCausalLM:
    """The decoder that the golden numbers were recorded with."""
    folder = shared_dir / "golden"
    model = KimiAudioForCausalLM(KimiAudioConfig(**json.loads((folder / "llm.json").read_text())["config"]))
    model.load_state_dict(load_file(folder / "llm_weights.safetensors"))
    return model.eval()
