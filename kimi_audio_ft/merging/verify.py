"""Checks of a merged folder before it gets its name: its files read back, and its logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import Qwen2ForCausalLM

from kimi_audio_ft.base import PeftTargets
from kimi_audio_ft.errors import DataError
from kimi_audio_ft.lora.adapter import load_adapter
from kimi_audio_ft.manifest.conversation import BLANK
from kimi_audio_ft.merging.prompt_embeddings import PromptEmbeddings
from kimi_audio_ft.merging.weights import StoredTensor, decoder_sources
from kimi_audio_ft.model import KimiAudioForCausalLM, TextTokenizer, WhisperFeatureExtractor, num_audio_tokens
from kimi_audio_ft.model.checkpoint import is_branch, read_config
from kimi_audio_ft.model.files import FRONT_END_NAME, WHISPER_NAME, ModelFiles

# Largest root-mean-square difference of the logits, as a part of their own spread: rounding the merged weights to
# bf16 gives about 0.4 % per layer; without rounding only the order of sums differs.
TOLERANCE = {torch.bfloat16: 0.03, torch.float32: 1e-5}
# With verify=auto the comparison must not take more memory than the merge itself is allowed to.
_MOST_BYTES = 5e9
_SAMPLES = 20_000


@dataclass(frozen=True)
class _Prompt:
    """Positions ``[S]`` of a conversation; features ``[codes, dim]`` and a waveform ``[samples]`` for its codes."""

    audio: Tensor
    text: Tensor
    is_code: Tensor
    features: Tensor
    waveform: Tensor

    @classmethod
    def drawn(cls, root: Path) -> _Prompt:
        """As a conversation has them: in one of the streams every position has the blank."""
        config, codes, generator = read_config(root), num_audio_tokens(_SAMPLES), torch.Generator().manual_seed(1)
        waveform = 0.1 * torch.randn(_SAMPLES, generator=generator)
        features = torch.randn(codes, config.kimia_adaptor_input_dim, generator=generator)
        blank, first = TextTokenizer.from_pretrained(root).special_tokens[BLANK], config.kimia_token_offset
        audio = torch.randint(first, config.vocab_size, (codes + 8,), generator=generator)
        text = torch.randint(0, first, audio.shape, generator=generator)
        is_code = torch.zeros_like(audio, dtype=torch.bool)
        is_code[4 : 4 + codes] = True
        return cls(audio.where(is_code, blank), text.where(~is_code, blank), is_code, features, waveform)


def check_files(written: Mapping[Path, Mapping[str, StoredTensor]]) -> None:
    """Read headers and index back; names, shapes and dtypes must be those that were to be written, by folder.

    Raises DataError: a bug here, or a disk that does not keep what is written.
    """
    for folder, required in written.items():
        found = {name: source.info for name, source in decoder_sources(folder).items()}
        if found != {name: source.info for name, source in required.items()}:
            raise DataError(folder, "does not hold the tensors that were written", "Check the disk, and merge again")


def check_logits(base: ModelFiles, folder: Path, adapter: Path | None, dtype: torch.dtype, verify: str) -> str:
    """Compare merged with base + adapter on one prompt, both computed in float32; returns a line that says so.

    Args:
        folder: in the published layout, or Qwen2's with a front end.
        verify: "true", "false", or "auto", which leaves a model out whose float32 weights take more than 5 GB.

    Raises:
        DataError: the logits differ by more than the rounding of weights explains.
    """
    targets = PeftTargets.of(adapter) if adapter else PeftTargets(branch=False, whisper=False)
    is_qwen2 = (folder / FRONT_END_NAME).is_dir()
    if is_qwen2:
        targets = replace(targets, branch=False)
    read = [s.info for name, s in decoder_sources(folder).items() if targets.branch or not is_branch(name)]
    numbers = sum(info.nbytes // info.dtype.itemsize for info in read)
    if verify == "false" or (verify == "auto" and 4 * numbers > _MOST_BYTES):
        need = f"it takes {4 * numbers / 1e9:.0f} GB of memory" if verify == "auto" else "verify=false"
        return f"names, shapes and index checked; logits not compared ({need}; verify=true compares them)"
    prompt = _Prompt.drawn(base.root)
    expected = _logits(prompt, base.root, base.whisper, targets, adapter)
    if is_qwen2:
        merged = _qwen2_logits(prompt, folder, targets)
    else:
        merged = _logits(prompt, folder, folder / WHISPER_NAME, targets, None)
    spread = (expected - expected.mean()).square().mean().sqrt()
    error = float((merged - expected).square().mean().sqrt() / spread)
    if adapter is None:
        line = f"logits: they differ from the base's by {error:.2%} of their spread"
    else:
        plain = _logits(prompt, base.root, base.whisper, targets, None)
        effect = float((plain - expected).square().mean().sqrt() / spread)
        line = (
            f"logits: merged differs from base + adapter by {error:.2%} of their spread, the base alone by {effect:.2%}"
        )
    if not error <= TOLERANCE[dtype]:
        raise DataError(folder, f"{line}; at most {TOLERANCE[dtype]:.3%} is rounding", "Report this as a bug")
    return line


@torch.no_grad()
def _logits(prompt: _Prompt, root: Path, whisper: Path, targets: PeftTargets, adapter: Path | None) -> Tensor:
    """Text logits ``[S, V]``, and the audio branch's when the adapter changes it."""
    changes_branch = adapter is not None and PeftTargets.of(adapter).branch
    model = KimiAudioForCausalLM.from_pretrained(root, torch.float32, audio_branch=targets.branch or changes_branch)
    if targets.whisper:
        model.attach_whisper(WhisperFeatureExtractor.from_pretrained(whisper))
    if adapter is not None:
        load_adapter(model, adapter)
    inputs = {"waveforms": [prompt.waveform]} if targets.whisper else {"audio_features": [prompt.features]}
    streams = (prompt.audio[None], prompt.text[None], prompt.is_code[None])
    out = model(*streams, audio_branch=targets.branch, **inputs)
    parts = [out.text_logits] + ([out.audio_logits] if targets.branch else [])
    return torch.cat(parts).float()


@torch.no_grad()
def _qwen2_logits(prompt: _Prompt, folder: Path, targets: PeftTargets) -> Tensor:
    """Logits ``[1, S, V]`` of a Qwen2 folder, from embeddings of its front end."""
    features = prompt.features
    if targets.whisper:
        whisper = WhisperFeatureExtractor.from_pretrained(folder / FRONT_END_NAME / WHISPER_NAME)
        [features] = whisper([prompt.waveform])
    embeddings = PromptEmbeddings.from_pretrained(folder)(prompt.audio, prompt.text, prompt.is_code, [features])
    model = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model(inputs_embeds=embeddings[None]).logits
