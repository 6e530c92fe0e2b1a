"""Prompt embeddings for the Qwen2 folder that ``merge target=qwen2`` writes.

Shape suffixes: S positions, N audio codes, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from kimi_audio_ft.errors import DataError, UserError
from kimi_audio_ft.manifest.conversation import BLANK
from kimi_audio_ft.model.checkpoint import load_tensors, read_config
from kimi_audio_ft.model.config import KimiAudioConfig
from kimi_audio_ft.model.decoder import VQAdaptor, check_features
from kimi_audio_ft.model.files import FRONT_END_NAME
from kimi_audio_ft.model.places import audio_run_lengths
from kimi_audio_ft.model.text_tokenizer import TextTokenizer

# Names of tensors: Qwen2's table, which has the blank's row added, in the folder itself; the others in its front end.
TABLE = "model.embed_tokens.weight"
ADAPTOR_PREFIX = "model.vq_adaptor."
AUDIO_ROWS, BLANK_ROW = "audio_embeddings.weight", "blank_embedding.weight"


class PromptEmbeddings(nn.Module):
    """Makes what an engine takes as a prompt's embeddings, bit for bit as ``KimiAudioModel.embed`` computes them."""

    def __init__(self, config: KimiAudioConfig, blank: int) -> None:
        super().__init__()
        self.config, self.blank = config, blank
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.audio_embeddings = nn.Embedding(config.vocab_size - config.kimia_token_offset, config.hidden_size)
        self.blank_embedding = nn.Embedding(1, config.hidden_size)
        if config.use_whisper_feature:
            self.vq_adaptor = VQAdaptor(config)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> PromptEmbeddings:
        """Read a folder of ``merge target=qwen2``; DataError if it is none."""
        folder = Path(folder)
        front = folder / FRONT_END_NAME
        if not front.is_dir():
            remedy = "Write it by python -m kimi_audio_ft.merge target=qwen2"
            raise DataError(folder, f"has no {FRONT_END_NAME}/", remedy)
        config, tokenizer = read_config(front), TextTokenizer.from_pretrained(front)
        with torch.device("meta"):
            model = cls(config, tokenizer.special_tokens[BLANK])
        load_tensors(model.embed_tokens, folder, lambda name: "weight" if name == TABLE else None, dtype, device)
        parts = nn.ModuleDict({name: part for name, part in model.named_children() if name != "embed_tokens"})
        load_tensors(parts, front, lambda name: name.removeprefix("model."), dtype, device)
        return model.requires_grad_(False).eval()

    def forward(
        self, audio_ids_S: Tensor, text_ids_S: Tensor, is_audio_S: Tensor, features: Sequence[Tensor] | None
    ) -> Tensor:
        """Embeddings ``[S, D]`` of one conversation, without padding; arguments as of ``KimiAudioModel.embed``.

        Raises:
            UserError: a position has an id other than the blank in both streams, or features do not fit the codes.
        """
        both = (audio_ids_S != self.blank) & (text_ids_S != self.blank)
        if both.any():
            position = int(both.nonzero()[0])
            raise UserError(
                f"position {position}: has audio id {int(audio_ids_S[position])} and text id "
                f"{int(text_ids_S[position])}; one of the two must be the blank ({self.blank}). Embed one conversation "
                "at a time, as layout_conversation makes it, without padding"
            )
        embedded_SD = self.embed_tokens(torch.where(audio_ids_S == self.blank, text_ids_S, audio_ids_S))
        if not features:
            return embedded_SD
        check_features(audio_run_lengths(is_audio_S.unsqueeze(0)), features)
        rows_ND = torch.cat([f.to(device=embedded_SD.device, dtype=embedded_SD.dtype) for f in features])
        codes_N = audio_ids_S[is_audio_S] - self.config.kimia_token_offset
        scale = torch.tensor(2.0, dtype=embedded_SD.dtype, device=embedded_SD.device).sqrt()
        joined_ND = (self.audio_embeddings(codes_N) + self.vq_adaptor(rows_ND)) * scale + self.blank_embedding.weight
        return embedded_SD.masked_scatter(is_audio_S.unsqueeze(-1), joined_ND)
