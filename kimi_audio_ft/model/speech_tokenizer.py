"""GLM-4-Voice speech tokenizer: 12.5 codes per second from half a Whisper encoder and a codebook.

Shape letters: P pieces of any clips, S rows of 20 ms, T codes, D d_model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer, sinusoids

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.model.audio_frontend import (
    HOP_SAMPLES,
    PIECE_SAMPLES,
    checked_waveforms,
    float32_arithmetic,
    log_mel,
    num_audio_tokens,
    pad_pieces,
    split_pieces,
)
from kimi_audio_ft.model.checkpoint import load_tensors, read_encoder_config

SAMPLES_PER_ROW = 2 * HOP_SAMPLES
SHAPE_FIELDS = (
    *("d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "num_mel_bins"),
    *("max_source_positions", "pooling_type", "pooling_kernel_size", "pooling_position", "quantize_position"),
    *("quantize_vocab_size", "quantize_causal_block_size", "encoder_causal_convolution"),
)
# Published tensors that encoding does not use: training state, and the layers after the codebook in a whole model.
UNUSED_NAMES = ("embed_positions2.", "ema_count", "ema_weight", "layer_norm.", "decoder.", "proj_out.")
# Vectors per comparison with the codebook: limits the distance matrix to about 64 MB at 16384 codes.
SEARCH_ROWS = 1024


class SpeechTokenizer(nn.Module):
    """Waveforms to discrete codes (GLM-4-Voice, Zeng et al. 2024); ``state_dict`` has the published names.

    Always float32 without TF32, because lower precision changes the nearest code. Pieces of several clips are batched;
    each has its own spectrogram and never attends to padding, so its codes are independent of the batch.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        _check_config(config)
        self.config = dict(config)
        layer_config = WhisperConfig.from_dict(config)
        layer_config._attn_implementation = "sdpa"
        width, positions = config["d_model"], config["max_source_positions"]
        # Causal convolutions are padded explicitly, on the left only.
        padding = 0 if config["encoder_causal_convolution"] else 1
        self.conv1 = nn.Conv1d(config["num_mel_bins"], width, kernel_size=3, padding=padding)
        self.conv2 = nn.Conv1d(width, width, kernel_size=3, stride=2, padding=padding)
        self.embed_positions = nn.Embedding(positions, width)
        self.embed_positions.weight.data.copy_(sinusoids(positions, width))
        self.layers = nn.ModuleList(WhisperEncoderLayer(layer_config) for _ in range(config["quantize_position"]))
        self.codebook = nn.Embedding(config["quantize_vocab_size"], width)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> SpeechTokenizer:
        """Load ``config.json`` and safetensors, named as published (bare) or ``model.encoder.*``.

        Raises UserError for a missing or unknown tensor, or an unsupported config.
        """
        folder = Path(folder)
        config = read_encoder_config(folder, SHAPE_FIELDS)
        with torch.device("meta"):
            tokenizer = cls(config)
        load_tensors(tokenizer, folder, tokenizer._own_name, torch.float32, device)
        return tokenizer.eval()

    @property
    def vocab_size(self) -> int:
        """Number of codes."""
        return self.codebook.num_embeddings

    @torch.no_grad()
    def encode(self, waveforms: list[Tensor], batch_size: int = 8) -> list[Tensor]:
        """Codes ``[num_audio_tokens(samples)]`` (int64, on the CPU, without the decoder's offset) of each waveform.

        Takes 1-D float32 16 kHz waveforms; ``batch_size`` is the number of 30 s pieces computed at once. Raises
        UserError for an unusable waveform.
        """
        vectors = self.hidden(waveforms, batch_size)
        if not vectors:
            return []
        return list(self._nearest_codes(torch.cat(vectors)).cpu().split([len(rows) for rows in vectors]))

    def hidden(self, waveforms: list[Tensor], batch_size: int = 8) -> list[Tensor]:
        """Pooled vectors ``[num_audio_tokens(samples), d_model]`` of each waveform, before quantization to codes."""
        clips = [self._pieces(waveform) for waveform in checked_waveforms(waveforms)]
        pieces = [piece for clip in clips for piece in clip]
        vectors: dict[int, Tensor] = {}
        # The longest first, so that running out of memory happens at once.
        order = sorted(range(len(pieces)), key=lambda number: -pieces[number][1])
        with float32_arithmetic(self.conv1.weight.device):
            for start in range(0, len(order), batch_size):
                some = order[start : start + batch_size]
                vectors |= zip(some, self._pieces_hidden([pieces[number] for number in some]), strict=True)
        rows = (vectors[number] for number in range(len(pieces)))
        return [torch.cat([next(rows) for _ in clip]) for clip in clips]

    @property
    def _unit(self) -> int:
        """Samples per token."""
        return SAMPLES_PER_ROW * int(self.config["pooling_kernel_size"])

    def _pieces(self, waveform: Tensor) -> list[tuple[Tensor, int]]:
        """The clip in pieces of up to 30 s, each with the number of samples that its spectrogram covers.

        As published, all are padded to the longest, rounded up to whole tokens; the STFT's last frames depend on this.
        """
        pieces = split_pieces(waveform)
        padded_length = -(-max(piece.numel() for piece in pieces) // self._unit) * self._unit
        return [(piece, padded_length) for piece in pieces]

    def _pieces_hidden(self, pieces: list[tuple[Tensor, int]]) -> list[Tensor]:
        """``[T, D]`` of each piece, without its padding."""
        lengths = [samples.numel() for samples, _ in pieces]
        x_PSD = F.gelu(self._conv(self.conv2, F.gelu(self._conv(self.conv1, self._log_mels(pieces)))))
        x_PSD = x_PSD.transpose(1, 2)
        x_PSD = x_PSD + self.embed_positions.weight[: x_PSD.shape[1]]
        mask = self._attention_mask(lengths, x_PSD.shape[1])
        for layer in self.layers:
            x_PSD = layer(x_PSD, mask)
        pool = F.avg_pool1d if self.config["pooling_type"] == "avg" else F.max_pool1d
        pooled_PTD = pool(x_PSD.transpose(1, 2), self.config["pooling_kernel_size"]).transpose(1, 2)
        counts = [num_audio_tokens(length, self._unit) for length in lengths]
        return [rows_TD[:count] for rows_TD, count in zip(pooled_PTD, counts, strict=True)]

    def _log_mels(self, pieces: list[tuple[Tensor, int]]) -> Tensor:
        """``[P, num_mel_bins, frames]``: each piece's own spectrogram, zero-padded as a convolution would."""
        device, bins = self.conv1.weight.device, self.config["num_mel_bins"]
        frames = max(length for _, length in pieces) // HOP_SAMPLES
        mels = [log_mel(pad_pieces([samples], length, device), bins)[0] for samples, length in pieces]
        return torch.stack([F.pad(mel, (0, frames - mel.shape[-1])) for mel in mels])

    def _conv(self, conv: nn.Conv1d, x: Tensor) -> Tensor:
        return conv(F.pad(x, (2, 0)) if self.config["encoder_causal_convolution"] else x)

    def _attention_mask(self, lengths: list[int], rows: int) -> Tensor:
        """Additive ``[P, 1, S, S]``: a row attends to the rows of real audio up to the end of its own block of rows.

        ``[1, 1, S, S]`` if all pieces have equally many rows.
        """
        device = self.conv1.weight.device
        real_rows = [-(-length // SAMPLES_PER_ROW) for length in lengths]
        if len(set(real_rows)) == 1:
            del real_rows[1:]
        row = torch.arange(rows, device=device)
        visible = (row < torch.tensor(real_rows, device=device)[:, None])[:, None, None, :]
        if block := self.config["quantize_causal_block_size"]:
            visible = visible & (row // block <= (row // block)[:, None])
        visible = visible.expand(-1, -1, rows, -1)
        return torch.zeros(visible.shape, device=device).masked_fill(~visible, torch.finfo(torch.float32).min)

    def _nearest_codes(self, vectors_TD: Tensor) -> Tensor:
        codes = self.codebook.weight
        with float32_arithmetic(codes.device):
            # The vector's own squared norm is constant over codes and omitted.
            norms = codes.square().sum(dim=1)
            parts = [(norms - 2 * part @ codes.T).argmin(dim=1) for part in vectors_TD.split(SEARCH_ROWS)]
        return torch.cat(parts)

    def _own_name(self, stored_name: str) -> str | None:
        name = stored_name.removeprefix("model.").removeprefix("encoder.")
        if name.startswith(UNUSED_NAMES):
            return None
        # Only a whole model's file has layers after the codebook.
        if name.startswith("layers.") and int(name.split(".")[1]) >= self.config["quantize_position"]:
            return None
        return name


def _check_config(config: dict[str, Any]) -> None:
    kernel, rows = config["pooling_kernel_size"], config["max_source_positions"]
    block, position = config["quantize_causal_block_size"], config["quantize_position"]
    piece_rows = PIECE_SAMPLES // SAMPLES_PER_ROW
    rules: list[tuple[str, bool, str]] = [
        ("encoder_attention_heads", config["d_model"] % config["encoder_attention_heads"] == 0, "must divide d_model"),
        ("pooling_type", config["pooling_type"] in ("avg", "max"), "must be 'avg' or 'max'"),
        ("pooling_kernel_size", isinstance(kernel, int) and kernel > 0, "must be a positive integer"),
        ("pooling_position", config["pooling_position"] == position, f"must be quantize_position={position}"),
        ("quantize_position", 0 < position <= config["encoder_layers"], "must be 1 to encoder_layers"),
        ("quantize_causal_block_size", block is None or block > 0, "must be null or positive"),
        ("encoder_causal_attention", not config.get("encoder_causal_attention"), "only false is known"),
        ("quantize_causal_encoder", not config.get("quantize_causal_encoder"), "only false is known"),
    ]
    for field, holds, rule in rules:
        if not holds:
            raise UserError(f"{field}={config.get(field)!r}: {rule}. Check config.json of the speech tokenizer")
    if rows < -(-piece_rows // kernel) * kernel:
        raise UserError(f"max_source_positions={rows}: a 30 s piece has {piece_rows} rows. Check config.json")
