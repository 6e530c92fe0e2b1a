"""Merge an adapter into a checkpoint of the 7B's size, or train on it and decode, and print memory and time.

    python -m experiments.bench_merge --folder /somewhere/with/45GB
    python -m experiments.bench_merge --folder /somewhere/with/25GB --train

The base is random bf16 of the published shapes (19.5 GB in 36 shards, and a Whisper encoder of 1.3 GB), the adapter
random with rank 8 on the seven linears of all 28 layers. ``--train`` makes one optimizer step on two conversations and
decodes three tokens of a third, by adapter and base, in bfloat16 on the CPU where there is no GPU. All is removed at
the end.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from experiments.bench_overhead import write_manifest
from experiments.published_layout import published_config
from kimi_audio_ft.config.train import LoraConfig
from kimi_audio_ft.files import INDEX_NAME, write_json
from kimi_audio_ft.lora.adapter import WEIGHTS, peft_config
from kimi_audio_ft.lora.targets import linears_of, matched
from kimi_audio_ft.model import KimiAudioConfig, KimiAudioForCausalLM, WhisperFeatureExtractor
from kimi_audio_ft.model.audio_frontend import PREPROCESSOR_CONFIG
from kimi_audio_ft.model.checkpoint import WEIGHTS_NAME, TensorInfo, write_in_pieces
from kimi_audio_ft.model.whisper import SHAPE_7B
from kimi_audio_ft.paths import TINY_MODEL

_BLOCK_NUMBERS = 2**24
TEXT_IDS = 152_064  # text and special ids of the published model; codes follow


def main() -> None:
    """Make base and adapter, merge in a process that is watched, print one line of JSON, clean up."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bench_merge", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="scratch folder; must not exist")
    parser.add_argument("--train", action="store_true", help="train and decode instead of merging")
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    folder.mkdir(parents=True)
    try:
        started = time.monotonic()
        with torch.device("meta"):
            model = KimiAudioForCausalLM(KimiAudioConfig())
        _write_base(folder / "base", model)
        if options.train:
            print(json.dumps(_watched(_training(folder), folder)))
            return
        _write_adapter(folder / "adapter", model)
        made = time.monotonic() - started
        arguments = [f"adapter={folder / 'adapter'}", f"out={folder / 'out'}", f"model.path={folder / 'base'}"]
        command = [sys.executable, "-m", "kimi_audio_ft.merge", *arguments, "progress=false"]
        numbers = _watched(command, folder)
        shards = [path.stat().st_size for path in (folder / "out").glob("*.safetensors")]
        numbers |= {"shards": len(shards), "largest_shard_GB": round(max(shards) / 1e9, 2)}
        numbers |= {"decoder_GB": round(sum(shards) / 1e9, 3), "seconds_to_make_base": round(made)}
        print(json.dumps(numbers))
    finally:
        shutil.rmtree(folder)


def _training(folder: Path) -> list[str]:
    """The command of a training of one step, its manifests and a vocabulary of the published size."""
    fill_vocabulary(folder / "base")
    for name, count in (("train", 2), ("eval", 1)):
        write_manifest(folder / f"{name}.jsonl", count, seed=count, first_code=TEXT_IDS)
    options = {
        **{"model": "kimi_audio_7b_instruct", "model.path": folder / "base"},
        "model.speech_tokenizer": TINY_MODEL / "glm-4-voice-tokenizer",  # its codes are given
        **{f"data.{name}_manifest": folder / f"{name}.jsonl" for name in ("train", "eval")},
        **{"data.features": "none", "trainer.max_steps": 1, "decoding.max_new_tokens": 3},
        **{"logger": "none", "hydra.run.dir": folder / "run"},
    }
    return [sys.executable, "-m", "kimi_audio_ft.train", *(f"{key}={value}" for key, value in options.items())]


def fill_vocabulary(root: Path) -> None:
    """Add byte strings that no text has to the embedded tokenizer until ids are where the published ones are."""
    path, settings = root / "tiktoken.model", root / "tokenizer_config.json"
    ranks = path.read_bytes().splitlines()
    told = json.loads(settings.read_text(encoding="utf-8"))
    first, added = len(ranks), TEXT_IDS - len(told["added_tokens_decoder"])
    strings = (b"\xff" + number.to_bytes(3, "big") for number in range(added - first))  # \xff is in no UTF-8
    ranks += [base64.b64encode(one) + b" %d" % rank for rank, one in enumerate(strings, first)]
    path.write_bytes(b"\n".join(ranks) + b"\n")
    moved = {str(int(name) + added - first): token for name, token in told["added_tokens_decoder"].items()}
    write_json(settings, told | {"added_tokens_decoder": moved})


def _watched(command: list[str], folder: Path) -> dict[str, float]:
    """Run a command; peak of its anonymous memory (RssAnon, every 20 ms), of all its memory (VmHWM), and seconds.

    VmHWM counts pages of the memory-mapped files that happen to be in memory, which the system drops when it needs
    them; RssAnon is what the process itself holds.
    """
    started = time.monotonic()
    environment = os.environ | {"KIMI_AUDIO_FT_STORE": str(folder / "store")}
    process = subprocess.Popen(command, env=environment)
    anonymous = high = 0
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:
            break
        fields = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("RssAnon", "VmHWM"))}
        anonymous, high = max(anonymous, int(fields.get("RssAnon", 0))), max(high, int(fields.get("VmHWM", 0)))
        time.sleep(0.02)
    if process.wait():
        raise SystemExit(f"the command failed with {process.returncode}")
    seconds = time.monotonic() - started
    return {"peak_anonymous_GB": anonymous / 1e6, "VmHWM_GB": high / 1e6, "seconds": round(seconds, 1)}


def _write_base(root: Path, model: KimiAudioForCausalLM) -> None:
    """The published layout at full size, of one random block written again and again."""
    whisper = root / "whisper-large-v3"
    whisper.mkdir(parents=True)
    block = 0.02 * torch.randn(_BLOCK_NUMBERS, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    infos = {name: TensorInfo(torch.bfloat16, tuple(value.shape)) for name, value in model.state_dict().items()}
    layers = [f"model.layers.{index}." for index in range(28)] + [f"model.mimo_layers.{index}." for index in range(6)]
    groups = [
        {name: info for name, info in infos.items() if name.startswith(prefix)}
        for prefix in (*layers, "model.vq_adaptor.")
    ]
    seen = {name for group in groups for name in group}
    names = [f"model-{number}-of-{len(groups)}.safetensors" for number in range(1, len(groups) + 1)]
    groups.append({name: info for name, info in infos.items() if name not in seen})
    names.append(f"model-{len(groups)}-of-{len(groups)}.safetensors")
    weight_map: dict[str, str] = {}
    for name, group in zip(names, groups, strict=True):
        _write_random(root / name, group, block)
        weight_map |= dict.fromkeys(group, name)
    total = sum(info.nbytes for info in infos.values())
    write_json(root / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)
    write_json(root / "config.json", published_config(model.model.config, torch.bfloat16), indent=2)
    for path in ("tiktoken.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(TINY_MODEL / path, root / path)
    with torch.device("meta"):
        encoder = WhisperFeatureExtractor(SHAPE_7B).encoder.state_dict()
    shapes = {f"model.encoder.{name}": TensorInfo(torch.bfloat16, tuple(v.shape)) for name, v in encoder.items()}
    _write_random(whisper / WEIGHTS_NAME, shapes, block)
    write_json(whisper / "config.json", SHAPE_7B | {"model_type": "whisper"}, indent=2)
    write_json(whisper / "preprocessor_config.json", PREPROCESSOR_CONFIG, indent=2)


def _write_random(path: Path, tensors: dict[str, TensorInfo], block: Tensor) -> None:
    def pieces_of(name: str) -> Iterator[Tensor]:
        numbers = tensors[name].nbytes // 2
        for start in range(0, numbers, len(block)):
            yield block[: min(len(block), numbers - start)]

    write_in_pieces(path, tensors, pieces_of)


def _write_adapter(folder: Path, model: KimiAudioForCausalLM) -> None:
    settings, generator = LoraConfig(r=8), torch.Generator().manual_seed(1)
    tensors: dict[str, Tensor] = {}
    for name in matched(linears_of(model), settings.target_modules):
        rows, columns = model.get_parameter(f"{name}.weight").shape
        for part, shape in (("lora_A", (8, columns)), ("lora_B", (rows, 8))):
            tensors[f"base_model.model.{name}.{part}.weight"] = 0.01 * torch.randn(shape, generator=generator)
    folder.mkdir()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    peft_config(settings).save_pretrained(str(folder))


if __name__ == "__main__":
    main()
