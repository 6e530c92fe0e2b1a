"""Names of the demo sweep's products: equal content keeps its address, also in the next version.

KIMI_AUDIO_FT_WRITE_GOLDEN=1 writes them anew, for a change on purpose that CHANGELOG.md tells.
"""

from __future__ import annotations

import json
import os
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.decoding.request import DecodingRequest
from kimi_audio_ft.decoding.transcripts import transcript_signatures
from kimi_audio_ft.paths import config_dir
from kimi_audio_ft.trial import Trial

GOLDEN = Path(__file__).with_suffix(".json")


def demo_trial(overrides: list[str]) -> Trial:
    """A trial of the study ``experiments/demo.yaml``."""
    config = OmegaConf.to_object(compose("train", ["+experiments=demo", *overrides]))
    assert isinstance(config, TrainConfig)
    return Trial(config)


def signatures(coded_manifests: Path) -> dict[str, Any]:
    """Signatures of the features, and of every adapter and its transcripts, by what the demo sweeps."""
    data = [f"data.{name}_manifest={coded_manifests / name}.jsonl" for name in ("train", "eval")]
    decodings = {t: demo_trial([*data, f"decoding.text_temperature={t}"]).config.decoding for t in (0.0, 0.3)}
    found: dict[str, Any] = {}
    for rank, rate in product((2, 8, 32), ("1e-3", "4e-3")):
        trial = demo_trial([*data, f"lora.r={rank}", f"optim.lr={rate}"])
        adapter, seed = trial.training_signature, trial.config.seed
        found |= {"features": trial.base.identities["encoders"], f"r={rank},lr={rate}": adapter}
        for temperature, decoding in decodings.items():
            names = transcript_signatures(trial.evaluation, DecodingRequest(decoding, seed), adapter)
            found[f"r={rank},lr={rate},t={temperature}"] = names
    return found


def test_products_keep_their_names(coded_manifests: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        found = signatures(coded_manifests)
    if os.environ.get("KIMI_AUDIO_FT_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    assert found == json.loads(GOLDEN.read_text(encoding="utf-8"))
