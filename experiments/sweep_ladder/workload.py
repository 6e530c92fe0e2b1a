"""The workload of the ladder: a corpus, a base and a grid of trials, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.published_layout import write_model, write_whisper
from kimi_audio_ft.files import read_json_object, read_jsonl
from kimi_audio_ft.model import KimiAudioConfig, KimiAudioForCausalLM, WhisperFeatureExtractor
from kimi_audio_ft.model.checkpoint import read_config
from kimi_audio_ft.paths import CHECKOUT, TINY_MODEL

# About the published proportions: 6 of 34 layers belong to the audio branch, 1/15 of all numbers to the encoder.
_MID_DECODER = {
    "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 16, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 64, "kimia_mimo_layers": 3, "kimia_mimo_transformer_from_layer_index": 12,
    "kimia_adaptor_input_dim": 1024,
}  # fmt: skip
_MID_WHISPER = {"d_model": 256, "encoder_layers": 4, "encoder_attention_heads": 4, "encoder_ffn_dim": 1024}


@dataclass(frozen=True)
class Workload:
    """A sweep: ranks times rates times temperatures.

    base: "tiny", or "mid" for 60 M random parameters. recordings: of the demo's corpus; a tenth is held out.
    """

    name: str
    folder: Path
    base: str
    recordings: int
    epochs: int
    max_new_tokens: int
    ranks: tuple[int, ...] = (4, 8, 16)
    rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)
    temperatures: tuple[float, ...] = (0.0, 0.3, 0.6, 1.0)
    threads: int = 0

    @property
    def adapters(self) -> int:
        """Adapters of the whole sweep."""
        return len(self.ranks) * len(self.rates)

    @property
    def trials(self) -> int:
        """Trials of the whole sweep."""
        return self.adapters * len(self.temperatures)

    @property
    def overrides(self) -> list[str]:
        """Options of all trials. Without dropout, so that every way of working makes the same adapters."""
        data = self.folder / "data"
        model = [] if self.base == "tiny" else [f"model.path={self.folder / 'base'}"]
        return [
            *model, f"data.train_manifest={data}/train.tokens.jsonl", f"data.eval_manifest={data}/eval.tokens.jsonl",
            "lora.lora_dropout=0", f"trainer.max_epochs={self.epochs}", f"trainer.threads={self.threads}",
            "trainer.log_every=1", "trainer.progress=false", "decoding=sampled",
            f"decoding.max_new_tokens={self.max_new_tokens}", "logger=none", "baseline=false",
        ]  # fmt: skip

    def lines(self, name: str) -> int:
        """Conversations of ``train`` or ``eval``."""
        return sum(1 for _ in read_jsonl(self.folder / "data" / f"{name}.tokens.jsonl"))

    def store(self, name: str = "features") -> Path:
        """A store of that name; a new one begins with the features."""
        place = self.folder / "stores" / name
        if not place.is_dir() and name != "features":
            shutil.copytree(self.store(), place)
        return place

    def environment(self, store: str) -> dict[str, str]:
        """Environment of a command that works in a store."""
        return os.environ | {"KIMI_AUDIO_FT_STORE": str(self.store(store)), "PYTHONPATH": str(CHECKOUT)}

    def make(self) -> None:
        """Corpus, base, codes and features, unless they are there."""
        done = self.folder / "made"
        if done.is_file():
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        if self.base == "mid":
            write_mid(self.folder / "base")
        corpus, data = self.folder / "corpus", self.folder / "data"
        model = [] if self.base == "tiny" else [f"model.path={self.folder / 'base'}"]
        self._command("demo.corpus", "--out", str(corpus), "--recordings", str(self.recordings))
        splits = ("group_column=recording", "eval_ratio=0.1", "test_ratio=0")
        self._command("prepare", f"csv={corpus}/corpus.csv", f"out={data}", *splits)
        manifests = f"manifests=[{data}/train.jsonl,{data}/eval.jsonl]"
        self._command("tokenize", manifests, *model, f"hydra.run.dir={self.folder}/tokenize")
        done.touch()

    def _command(self, module: str, *arguments: str) -> None:
        command = [sys.executable, "-m", f"kimi_audio_ft.{module}", *arguments]
        subprocess.run(command, env=self.environment("features"), check=True, stdout=subprocess.DEVNULL)

    def as_json(self) -> dict[str, Any]:
        """For a child process."""
        return asdict(self) | {"folder": str(self.folder)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Workload:
        """The inverse of ``as_json``."""
        lists = {name: tuple(values[name]) for name in ("ranks", "rates", "temperatures")}
        return cls(**values | lists | {"folder": Path(values["folder"])})


def write_mid(root: Path) -> None:
    """A base of about 60 M random parameters in the published layout; the tokenizers are the tiny model's."""
    config: dict[str, Any] = read_config(TINY_MODEL).to_diff_dict()
    config = {k: v for k, v in config.items() if k not in ("rope_parameters", "layer_types", "dtype")}
    whisper = read_json_object(TINY_MODEL / "whisper-large-v3" / "config.json", "Check out again") | _MID_WHISPER
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        write_model(KimiAudioForCausalLM(KimiAudioConfig(**config | _MID_DECODER)), root, torch.bfloat16)
        write_whisper(WhisperFeatureExtractor(whisper).half(), root / "whisper-large-v3")
    for name in ("tiktoken.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(TINY_MODEL / name, root / name)
    shutil.copytree(TINY_MODEL / "glm-4-voice-tokenizer", root / "glm-4-voice-tokenizer")
