"""Voice activity: the probability of speech in every 32 ms of a recording, by the weights of silero-vad.

The package computes one frame after the other, with a model in a format that PyTorch gives up. Here all frames of a
block go through the convolutions together, and only the LSTM goes from frame to frame.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import pad

from kimi_audio_ft.config.checks import needs_package
from kimi_audio_ft.config.transcribe import PAUSES
from kimi_audio_ft.errors import DataError

FRAME = 512
"""Samples (at 16 kHz) that one probability stands for."""
# The network hears this much before each frame, and the frame's end once more in reverse.
_CONTEXT, _REFLECTED = 64, 64
_FFT, _HOP = 256, 128
_WEIGHTS = "silero_vad_16k.safetensors"
_OTHER_VERSION = 'Install the version that comes with pip install -e ".[vad]"'
# Frames that go through the convolutions together: a minute of audio.
_FRAMES_AT_ONCE = 2048


class VoiceActivity(nn.Module):
    """The 16 kHz network of silero-vad (MIT licence): magnitudes, four convolutions, and an LSTM over the frames.

    Shape suffixes: F frames, S samples, C channels, T hops of a frame.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, _FFT + 2, _FFT, stride=_HOP, bias=False)
        self.conv1 = nn.Conv1d(_FFT // 2 + 1, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm = nn.LSTM(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    @classmethod
    def from_file(cls, path: Path) -> VoiceActivity:
        """The network with the weights of ``silero_vad_16k.safetensors``; DataError: the file is another one."""
        weights = {name.replace("lstm_cell.", "lstm."): values for name, values in load_file(path).items()}
        own = {f"{name}_l0" if name.startswith("lstm.") else name: values for name, values in weights.items()}
        network = cls()
        try:
            network.load_state_dict(own)
        except RuntimeError:  # which lists every tensor
            raise DataError(path, "holds another network than the one that is known here", _OTHER_VERSION) from None
        return network.eval().requires_grad_(False)

    @torch.inference_mode()
    def probabilities(self, blocks: Iterable[Tensor]) -> np.ndarray:
        """Probability of speech in every frame of a recording, float32 ``[ceil(samples / FRAME)]``.

        Args:
            blocks: its samples ``[samples]`` at 16 kHz, one block after the other; all but the last have whole frames.
        """
        before = torch.zeros(_CONTEXT)
        state: tuple[Tensor, Tensor] | None = None
        found: list[np.ndarray] = []
        for block in blocks:
            padded = pad(torch.cat([before, block]), (0, -len(block) % FRAME))
            frames_FS = padded.unfold(0, _CONTEXT + FRAME, FRAME)
            encoded_FC = torch.cat([self._encoded(some) for some in frames_FS.split(_FRAMES_AT_ONCE)])
            hidden_FC, state = self.lstm(encoded_FC, state)
            logits_F = self.final_conv(hidden_FC.relu().unsqueeze(-1)).flatten()
            found.append(logits_F.sigmoid().numpy())
            before = block[-_CONTEXT:]
        return np.concatenate(found)

    def _encoded(self, frames_FS: Tensor) -> Tensor:
        reflected_FS = pad(frames_FS, (0, _REFLECTED), mode="reflect")
        parts_FCT = self.stft_conv(reflected_FS.unsqueeze(1))
        real_FCT, imaginary_FCT = parts_FCT.chunk(2, dim=1)
        x = (real_FCT.square() + imaginary_FCT.square()).sqrt()
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = layer(x).relu()
        return x.squeeze(-1)


def weights_file() -> Path:
    """The file of weights in the installed package silero-vad; ConfigError: it is not installed.

    Importing the package would set PyTorch's threads to 1.
    """
    needs_package("silero-vad", "vad", "cut", PAUSES, or_else="cut=windows needs none")
    spec = find_spec("silero_vad")
    folders = spec.submodule_search_locations if spec is not None else None
    assert folders, "a package that is installed has a folder"
    path = Path(folders[0]) / "data" / _WEIGHTS
    if not path.is_file():
        raise DataError(path, "there is no such file in the installed silero-vad", _OTHER_VERSION)
    return path
