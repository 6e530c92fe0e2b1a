"""Checks of a merged folder before it gets its name: its files read back, and its logits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from kimi_audio_ft.base import PeftTargets
from kimi_audio_ft.errors import DataError
from kimi_audio_ft.lora.adapter import load_adapter
from kimi_audio_ft.merging.weights import StoredTensor, decoder_sources, whisper_sources
from kimi_audio_ft.model import KimiAudioForCausalLM, WhisperFeatureExtractor, num_audio_tokens
from kimi_audio_ft.model.checkpoint import is_branch
from kimi_audio_ft.model.files import WHISPER_NAME, ModelFiles

# Largest root-mean-square difference of the logits, as a part of their own spread: rounding the merged weights to
# bf16 gives about 0.4 % per layer; without rounding only the order of sums differs.
TOLERANCE = {torch.bfloat16: 0.03, torch.float32: 1e-5}
# With verify=auto the comparison must not take more memory than the merge itself is allowed to.
_MOST_BYTES = 5e9
_SAMPLES = 20_000


def check_files(folder: Path, decoder: Mapping[str, StoredTensor], encoder: Mapping[str, StoredTensor]) -> None:
    """Read headers and index back; names, shapes and dtypes must be those that were to be written.

    Raises DataError: a bug here, or a disk that does not keep what is written.
    """
    for where, written, required in (
        (folder, decoder_sources(folder), decoder),
        (folder / WHISPER_NAME, whisper_sources(folder / WHISPER_NAME), encoder),
    ):
        found = {name: source.info for name, source in written.items()}
        if found != {name: source.info for name, source in required.items()}:
            raise DataError(where, "does not hold the tensors that were written", "Check the disk, and merge again")


def check_logits(base: ModelFiles, folder: Path, adapter: Path, dtype: torch.dtype, verify: str) -> str:
    """Compare merged with base + adapter on one sample, both computed in float32; returns a line that says so.

    Args:
        verify: "true", "false", or "auto", which leaves a model out whose float32 weights take more than 5 GB.

    Raises:
        DataError: the logits differ by more than the rounding of weights explains.
    """
    targets = PeftTargets.of(adapter)
    read = [s.info for name, s in decoder_sources(folder).items() if targets.branch or not is_branch(name)]
    numbers = sum(info.nbytes // info.dtype.itemsize for info in read)
    if verify == "false" or (verify == "auto" and 4 * numbers > _MOST_BYTES):
        need = f"it takes {4 * numbers / 1e9:.0f} GB of memory" if verify == "auto" else "verify=false"
        return f"names, shapes and index checked; logits not compared ({need}; verify=true compares them)"
    expected = _logits(base.root, base.whisper, targets, adapter)
    merged = _logits(folder, folder / WHISPER_NAME, targets, None)
    plain = _logits(base.root, base.whisper, targets, None)
    spread = (expected - expected.mean()).square().mean().sqrt()
    error = float((merged - expected).square().mean().sqrt() / spread)
    effect = float((plain - expected).square().mean().sqrt() / spread)
    line = f"logits: merged differs from base + adapter by {error:.2%} of their spread, the base alone by {effect:.2%}"
    if not error <= TOLERANCE[dtype]:
        raise DataError(folder, f"{line}; at most {TOLERANCE[dtype]:.3%} is rounding", "Report this as a bug")
    return line


@torch.no_grad()
def _logits(root: Path, whisper: Path, targets: PeftTargets, adapter: Path | None) -> Tensor:
    """Text logits, and the audio branch's when the adapter changes it, of a fixed sample."""
    model = KimiAudioForCausalLM.from_pretrained(root, torch.float32, audio_branch=targets.branch)
    config, codes, generator = model.config, num_audio_tokens(_SAMPLES), torch.Generator().manual_seed(1)
    waveform = 0.1 * torch.randn(_SAMPLES, generator=generator)
    features = torch.randn(codes, config.kimia_adaptor_input_dim, generator=generator)
    if targets.whisper:
        model.attach_whisper(WhisperFeatureExtractor.from_pretrained(whisper))
    if adapter is not None:
        load_adapter(model, adapter)
    audio = torch.randint(config.kimia_token_offset, config.vocab_size, (1, codes + 8), generator=generator)
    is_code = torch.zeros_like(audio, dtype=torch.bool)
    is_code[:, 4 : 4 + codes] = True
    text = torch.randint(0, config.kimia_token_offset, audio.shape, generator=generator)
    inputs = {"waveforms": [waveform]} if targets.whisper else {"audio_features": [features]}
    out = model(audio, text, is_code, audio_branch=targets.branch, **inputs)
    parts = [out.text_logits] + ([out.audio_logits] if targets.branch else [])
    return torch.cat(parts).float()
