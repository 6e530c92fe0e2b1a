"""Whisper encoder as used by Kimi-Audio: four adjacent 20 ms vectors form one feature row per audio token."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder, WhisperEncoderLayer

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.model.audio_frontend import (
    PIECE_SAMPLES,
    checked_waveforms,
    log_mel,
    num_audio_tokens,
    pad_pieces,
    split_pieces,
)
from kimi_audio_ft.model.checkpoint import check_parameter_count, load_tensors, read_encoder_config

ROWS_PER_TOKEN = 4
SHAPE_FIELDS = ("d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "num_mel_bins")
SHAPE_7B = dict(zip(SHAPE_FIELDS, (1280, 32, 20, 5120, 128), strict=True))
# One row of the position table is 20 ms, and a piece is always 30 s.
PIECE_ROWS = 1500


class LastLayer(WhisperEncoderLayer):
    """The encoder's last layer, at the first ``rows`` positions only unless it trains: nobody reads its others."""

    rows = PIECE_ROWS

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Tensor:
        if self.training or self.rows == PIECE_ROWS:
            return super().forward(hidden_states, attention_mask, **options)
        normed = self.self_attn_layer_norm(hidden_states)
        kept = hidden_states[:, : self.rows]
        kept = kept + self.self_attn(normed[:, : self.rows], key_value_states=normed)[0]
        return kept + self.fc2(self.activation_fn(self.fc1(self.final_layer_norm(kept))))


class WhisperFeatureExtractor(nn.Module):
    """Waveforms to the features of Kimi-Audio's adaptor (published ``whisper.py`` of Kimi-Audio).

    A clip is split into 30 s pieces, each zero-padded to 30 s and encoded without a mask. The first
    ``4 * ceil(samples / 1280)`` rows are kept, the pieces concatenated, and every 4 rows joined into one. The
    constructor takes the fields of a published ``config.json`` and initialises randomly.

    plain: compute everything of the padding too, as published; the features are the same.
    """

    plain = False

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        _check_config(config)
        self.config = dict(config)
        whisper_config = WhisperConfig.from_dict(config)
        whisper_config._attn_implementation = "sdpa"
        self.encoder = WhisperEncoder(whisper_config)
        self.encoder.layers[-1] = LastLayer(whisper_config)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> WhisperFeatureExtractor:
        """Load ``config.json`` and the encoder's safetensors, named ``model.encoder.*``, ``encoder.*`` or bare.

        Decoder tensors are ignored. Raises UserError if the encoder's tensors do not match the config exactly.
        """
        folder = Path(folder)
        config = read_encoder_config(folder, SHAPE_FIELDS)
        with torch.device("meta"):
            extractor = cls(config)
        load_tensors(extractor.encoder, folder, _encoder_name, dtype, device)
        if all(config[name] == value for name, value in SHAPE_7B.items()):
            check_parameter_count(extractor.encoder, "Whisper encoder", folder)
        return extractor.eval()

    @property
    def num_mel_bins(self) -> int:
        return int(self.config["num_mel_bins"])

    @property
    def output_dim(self) -> int:
        """Width of a feature row: ``kimia_adaptor_input_dim`` of the matching decoder."""
        return ROWS_PER_TOKEN * int(self.config["d_model"])

    def forward(self, waveforms: list[Tensor], batch_size: int = 8) -> list[Tensor]:
        """Features ``[num_audio_tokens(samples), 4 * d_model]`` of each 1-D float32 16 kHz waveform, with gradients.

        ``batch_size`` is the number of 30 s pieces computed at once. Raises UserError for an unusable waveform.
        """
        clips = [split_pieces(waveform) for waveform in checked_waveforms(waveforms)]
        pieces = [piece for clip in clips for piece in clip]
        batches = (pieces[start : start + batch_size] for start in range(0, len(pieces), batch_size))
        rows = chain.from_iterable(map(self._encode_pieces, batches))
        return [torch.cat([next(rows) for _ in clip]) for clip in clips]

    @torch.no_grad()
    def encode(self, waveforms: list[Tensor], batch_size: int = 8) -> list[Tensor]:
        """``forward`` without gradients; in float32 on a CPU piece by piece, as its caches hold one."""
        weight = self.encoder.conv1.weight
        alone = weight.device.type == "cpu" and weight.dtype == torch.float32 and not self.plain
        return self(waveforms, 1 if alone else batch_size)

    def _encode_pieces(self, pieces: list[Tensor]) -> list[Tensor]:
        weight = self.encoder.conv1.weight
        longest = PIECE_SAMPLES if self.plain else max(piece.numel() for piece in pieces)
        mel = log_mel(pad_pieces(pieces, PIECE_SAMPLES, weight.device), self.num_mel_bins, longest)
        last: Any = self.encoder.layers[-1]
        last.rows = ROWS_PER_TOKEN * num_audio_tokens(longest)
        try:
            hidden = self.encoder(mel.to(weight.dtype)).last_hidden_state
        finally:
            last.rows = PIECE_ROWS
        features = hidden.reshape(len(pieces), -1, self.output_dim)
        return [rows[: num_audio_tokens(piece.numel())] for rows, piece in zip(features, pieces, strict=True)]


def _check_config(config: dict[str, Any]) -> None:
    d_model, heads = config["d_model"], config["encoder_attention_heads"]
    if d_model % heads:
        raise UserError(f"d_model={d_model}: must be a multiple of encoder_attention_heads={heads}. Check config.json")
    positions = config.get("max_source_positions", PIECE_ROWS)
    if positions != PIECE_ROWS:
        raise UserError(f"max_source_positions={positions}: a 30 s piece has {PIECE_ROWS} rows. Check config.json")


def _encoder_name(stored_name: str) -> str | None:
    name = stored_name.removeprefix("model.")
    # Whisper's keys have no bias. vLLM reads one, so that some checkpoints hold zeros; attention does not change by it.
    if name.startswith(("decoder.", "proj_out.")) or name.endswith(".self_attn.k_proj.bias"):
        return None
    return name.removeprefix("encoder.")
