"""The network of silero-vad, as the package computes it, and recordings that are cut by it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from kimi_audio_ft.errors import ConfigError, DataError
from kimi_audio_ft.transcribe.cutting import at_pauses
from kimi_audio_ft.transcribe.voice import FRAME, VoiceActivity, weights_file
from tests.silero import hide_silero

needs_silero = pytest.mark.skipif(find_spec("silero_vad") is None, reason="the extra `vad` is not installed")
RATE = 16_000


@pytest.fixture(scope="module")
def network() -> VoiceActivity:
    return VoiceActivity.from_file(weights_file())


@pytest.fixture(scope="module")
def meeting(shared_dir: Path) -> torch.Tensor:
    """Two minutes of four voices."""
    path = shared_dir / "audio" / "mandarin" / "long_meeting.flac"
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    return torch.from_numpy(soundfile.read(path, dtype="float32")[0])


@needs_silero
def test_equal_to_the_packages_own_model(meeting: torch.Tensor) -> None:
    """With the weights of its TorchScript model, which were trained apart from those of its safetensors file."""
    clip, threads = meeting[: 20 * RATE], torch.get_num_threads()
    import silero_vad

    torch.set_num_threads(threads)  # importing it has set them to 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of TorchScript
        theirs = silero_vad.load_silero_vad()
    with torch.inference_mode():
        expected = np.array([theirs(frame, RATE).item() for frame in clip.split(FRAME)])
    state = theirs.state_dict()
    own = {"stft_conv.weight": state["_model.stft.forward_basis_buffer"]}
    for kind in ("weight", "bias"):
        own[f"final_conv.{kind}"] = state[f"_model.decoder.decoder.2.{kind}"]
        for number in range(4):
            own[f"conv{number + 1}.{kind}"] = state[f"_model.encoder.{number}.reparam_conv.{kind}"]
        for part in ("ih", "hh"):
            own[f"lstm.{kind}_{part}_l0"] = state[f"_model.decoder.rnn.{kind}_{part}"]
    network = VoiceActivity()
    network.load_state_dict(own)
    # Measured: 2e-6 over the whole meeting, of float32 sums in another order.
    assert np.abs(network.probabilities([clip]) - expected).max() < 1e-4


@needs_silero
def test_blocks_give_what_the_whole_gives(network: VoiceActivity, meeting: torch.Tensor) -> None:
    clip = meeting[: 8 * RATE + 100]
    whole = network.probabilities([clip])
    assert len(whole) == -(-len(clip) // FRAME)
    assert np.abs(network.probabilities(clip.split(100 * FRAME)) - whole).max() < 1e-5


@needs_silero
def test_a_meeting_is_cut_into_its_true_segments(
    network: VoiceActivity, meeting: torch.Tensor, shared_dir: Path
) -> None:
    """No word is cut, and every boundary lies within 0.3 s of a true one."""
    truth = json.loads((shared_dir / "audio" / "mandarin" / "long_meeting.json").read_text(encoding="utf-8"))
    segments = [(segment["start"], segment["end"]) for segment in truth["segments"]]
    pieces = at_pauses(network.probabilities(_blocks(meeting)), FRAME / RATE, len(meeting) / RATE, 30.0)
    assert len(pieces) == len(segments)
    for piece, segment in zip(pieces, segments, strict=True):
        assert piece == pytest.approx(segment, abs=0.3)
    for start, end in at_pauses(network.probabilities([meeting]), FRAME / RATE, len(meeting) / RATE, 8.0):
        assert end - start <= 8
        for edge in (start, end):
            around = meeting[max(0, int(edge * RATE) - 160) :][:320]
            assert around.abs().max() < 0.1 * meeting.abs().max(), f"speech at {edge} s"


def _blocks(meeting: torch.Tensor) -> Iterator[torch.Tensor]:
    yield from meeting.split(1000 * FRAME)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "weights.safetensors"
    save_file({"conv1.weight": torch.zeros(2)}, path)
    with pytest.raises(DataError, match=r"holds another network .*Install the version .*\[vad\]"):
        VoiceActivity.from_file(path)


def test_what_to_install_or_to_set_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_silero(monkeypatch)
    with pytest.raises(ConfigError, match=r"cut='pauses': needs the package silero-vad.*\[vad\].*cut=windows"):
        weights_file()
