"""The Whisper features of the published implementation, recorded with tiny random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kimi_audio_ft.model.audio_frontend import PIECE_SAMPLES, log_mel
from kimi_audio_ft.model.whisper import WhisperFeatureExtractor
from tests.numerics.closeness import LOG_UNITS, assert_close

CLIPS = ("a1300ms", "a7777ms", "a30000ms", "a32160ms", "a65500ms")


@pytest.fixture(scope="module")
def cases(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "whisper_cases.safetensors")


def write_folder(golden: Path, folder: Path, prefix: str) -> Path:
    """A Whisper folder with the golden weights under ``prefix`` and decoder tensors that must stay unread."""
    recorded = load_file(golden / "whisper_weights.safetensors")
    weights = {prefix + name.removeprefix("encoder."): value for name, value in recorded.items()}
    unread = {f"{prefix.removesuffix('encoder.')}decoder.layer_norm.weight": torch.zeros(3)}
    save_file({**weights, **unread, "proj_out.weight": torch.zeros(2)}, folder / "model.safetensors")
    config = json.loads((golden / "whisper.json").read_text())["config"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module", params=["model.encoder.", "encoder.", ""])
def extractor(
    request: pytest.FixtureRequest, golden: Path, tmp_path_factory: pytest.TempPathFactory
) -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor.from_pretrained(
        write_folder(golden, tmp_path_factory.mktemp("whisper"), request.param)
    )


def test_features_alone_and_together(
    extractor: WhisperFeatureExtractor, waveforms: dict[str, Tensor], cases: dict[str, Tensor]
) -> None:
    together = extractor.encode([waveforms[clip] for clip in CLIPS], batch_size=3)
    for clip, features in zip(CLIPS, together, strict=True):
        (alone,) = extractor.encode([waveforms[clip]])
        for found in (features, alone):
            assert_close(found, cases[f"{clip}.features"][0], name=clip)


def mel_of_the_shortest(waveforms: dict[str, Tensor]) -> Tensor:
    waveform = waveforms["a1300ms"]
    return log_mel(torch.nn.functional.pad(waveform, (0, PIECE_SAMPLES - waveform.numel()))[None])


def test_log_mel(golden: Path, waveforms: dict[str, Tensor], cases: dict[str, Tensor]) -> None:
    mel = mel_of_the_shortest(waveforms)[0]
    expected = cases["a1300ms.log_mel_first_frames"]
    facts = json.loads((golden / "whisper.json").read_text())
    stored = facts["log_mel_frames_stored"]
    assert_close(mel[:, :stored], expected, LOG_UNITS)
    rest = torch.full_like(mel[:, stored:], facts["log_mel_value_of_all_remaining_frames"])
    assert_close(mel[:, stored:], rest, LOG_UNITS)


def test_untrimmed_encoder_output(
    extractor: WhisperFeatureExtractor, waveforms: dict[str, Tensor], cases: dict[str, Tensor]
) -> None:
    with torch.no_grad():
        hidden = extractor.encoder(mel_of_the_shortest(waveforms)).last_hidden_state
    assert_close(hidden, cases["a1300ms.encoder_output_untrimmed"])
