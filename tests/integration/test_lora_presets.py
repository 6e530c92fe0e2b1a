"""Presets beyond the decoder: they learn, each part of them moves, and what they learnt survives evaluate and merge."""

from __future__ import annotations

import math
import re
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file

from kimi_audio_ft.files import read_jsonl
from kimi_audio_ft.model import KimiAudioForCausalLM, WhisperFeatureExtractor
from kimi_audio_ft.paths import TINY_MODEL
from tests.integration.conftest import SHORT, Workplace
from tests.trials_json import hypotheses_of

ADAPTOR = {f"model.vq_adaptor.layers.{number}" for number in (0, 3)}
ATTENTION = {f"{name}_proj" for name in ("q", "k", "v", "out")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "trained_on", "beside_the_decoder"),
    [("decoder_and_adaptor", "cached", 2), ("decoder_adaptor_whisper", "online", 2 + 2 * 4)],
)
def test_it_learns_and_is_merged(workplace: Workplace, preset: str, trained_on: str, beside_the_decoder: int) -> None:
    def run(module: str, *arguments: str) -> str:
        return workplace.succeed(f"kimi_audio_ft.{module}", *arguments)

    steps = ("trainer.max_steps=6", "trainer.max_epochs=6", "trainer.log_every=1", "trainer.val_every=6")
    few = ("data.train_subset=3", f"data.features={trained_on}", "baseline=false")
    run("train", *SHORT, *steps, *few, f"lora={preset}", "lora.r=4", "optim.lr=0.01", "hydra.run.dir=trial")
    rows = read_jsonl(workplace.folder / "trial" / "curves.jsonl")
    losses = [row["loss"] for row in rows if row["split"] == "train"]
    assert len(losses) == 6 and all(map(math.isfinite, losses)) and losses[-1] < 0.8 * losses[0]

    (adapter,) = workplace.products("adapter")
    folder = workplace.store / "adapter" / adapter
    _every_target_has_moved(folder, beside_the_decoder)
    _plain_peft_opens(folder)

    data = (*SHORT[1:2], "decoding.max_new_tokens=8", "trainer.progress=false", "logger=none")
    run("evaluate", *data, f"adapter={adapter}", f"data.features={trained_on}", "hydra.run.dir=before")
    said = run("merge", f"adapter={adapter}", "out=merged", "target=official", "dtype=float32", "progress=false")
    differs = re.search(
        r"merged differs from base \+ adapter by 0\.00% of their spread, the base alone by ([\d.]+)%", said
    )
    assert differs is not None and float(differs[1]) > 5
    # Features of the merged encoder, stored under its own identity.
    run("evaluate", *data, f"model.path={workplace.folder / 'merged'}", "hydra.run.dir=after")
    heard = {name: hypotheses_of(workplace.folder / name) for name in ("trial", "before", "after")}
    assert heard["after"] == heard["before"] == heard["trial"]


def _every_target_has_moved(folder: Path, beside_the_decoder: int) -> None:
    """LoRA's second matrix starts at zero, so one that never got a gradient still is."""
    tensors = load_file(folder / "adapter_model.safetensors")
    moved = {
        name.removeprefix("base_model.model.").removesuffix(".lora_B.weight"): bool(value.any())
        for name, value in tensors.items()
        if name.endswith(".lora_B.weight")
    }
    assert all(moved.values()), [name for name in moved if not moved[name]]
    beside = {name for name in moved if not name.startswith("model.layers.")}
    assert len(beside) == beside_the_decoder and beside >= ADAPTOR
    assert {name.rpartition(".")[2] for name in beside - ADAPTOR} == (ATTENTION if beside - ADAPTOR else set())


def _plain_peft_opens(folder: Path) -> None:
    model = KimiAudioForCausalLM.from_pretrained(TINY_MODEL, audio_branch=True)
    model.attach_whisper(WhisperFeatureExtractor.from_pretrained(TINY_MODEL / "whisper-large-v3"))
    adapted = peft.PeftModel.from_pretrained(model, str(folder))
    loaded = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
    saved = load_file(folder / "adapter_model.safetensors")
    assert loaded.keys() == saved.keys() and all(torch.equal(loaded[name], saved[name]) for name in saved)
