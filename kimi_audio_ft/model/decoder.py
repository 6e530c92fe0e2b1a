"""The two-stream decoder of Kimi-Audio: one stack of Qwen2 layers for text, a branch of it for audio.

Shape suffixes: B rows, S positions, N selected positions, D hidden size, V vocabulary, T codes of one audio.

    E[audio id] (+ adaptor(Whisper features), scaled, at audio codes) + E[text id]
        -> layers 0..branch -> ... -> layers n-1 -> norm      -> lm_head     : text logits
                            -> mimo_layers 0..m-1 -> mimo_norm -> mimo_output : audio logits
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm, Qwen2RotaryEmbedding

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.model.checkpoint import STRAY_SUFFIX, check_parameter_count, is_branch, load_tensors, read_config
from kimi_audio_ft.model.config import KimiAudioConfig
from kimi_audio_ft.model.flat import Flat
from kimi_audio_ft.model.head_loss import chunked_losses
from kimi_audio_ft.model.layers import CACHE, DecoderLayer, selected
from kimi_audio_ft.model.places import audio_run_lengths, places_of, repeated_places

if TYPE_CHECKING:
    from kimi_audio_ft.model.whisper import WhisperFeatureExtractor


class KimiAudioOutput(NamedTuple):
    """Output of ``forward``.

    text_logits: ``[B, S, V]``, or ``[N, V]`` when ``text_positions`` was given; from ``lm_head``.
    text_losses: ``[N]``, in place of these logits, when ``labels`` were given.
    audio_logits: ``[B, S, V]`` from ``mimo_output``; None with ``audio_branch=False``.
    past_key_values: cache of the main layers, followed by the branch's.
    """

    text_logits: Tensor | None = None
    text_losses: Tensor | None = None
    audio_logits: Tensor | None = None
    past_key_values: Cache | None = None


class VQAdaptor(nn.Module):
    """Projects stacked Whisper features ``[N, kimia_adaptor_input_dim]`` to ``[N, D]``.

    The LayerNorm uses the RMS-norm epsilon of the config, as published, not PyTorch's 1e-5.
    """

    def __init__(self, config: KimiAudioConfig) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(config.kimia_adaptor_input_dim, config.hidden_size),
            nn.SiLU(),
            nn.Dropout(0.0),
            nn.Linear(config.hidden_size, config.hidden_size),
            nn.LayerNorm(config.hidden_size, eps=config.rms_norm_eps),
        )

    def forward(self, features_ND: Tensor) -> Tensor:
        return self.layers(features_ND)


class KimiAudioModel(nn.Module):
    """Embedding of both streams and both stacks of layers; the heads are in ``KimiAudioForCausalLM``."""

    def __init__(self, config: KimiAudioConfig) -> None:
        super().__init__()
        self.config = config
        main, branch = config.num_hidden_layers, config.kimia_mimo_layers
        # The branch's layers are numbered after the main ones, as in the shared KV cache.
        stacked = copy.deepcopy(config)
        stacked.num_hidden_layers = main + branch
        stacked.layer_types = ["full_attention"] * stacked.num_hidden_layers
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(stacked, index) for index in range(main))
        self.norm = Qwen2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mimo_layers = nn.ModuleList(DecoderLayer(stacked, main + index) for index in range(branch))
        self.mimo_norm = Qwen2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        if config.use_whisper_feature:
            self.vq_adaptor = VQAdaptor(config)
        self.rotary_emb = Qwen2RotaryEmbedding(config=config)
        for layer in (*self.layers, *self.mimo_layers):
            layer.self_attn.config = config  # so that set_attn_implementation() reaches every layer

    def embed(
        self,
        audio_ids_BS: Tensor,
        text_ids_BS: Tensor,
        is_audio_BS: Tensor | None,
        features: Sequence[Tensor] | None,
        places_N: Tensor | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Joint embedding ``[B, S, D]`` of the two streams.

        At audio codes it is ``(E[code] + adaptor(feature)) * sqrt(2) + E[text]``, elsewhere ``E[audio] + E[text]``.
        ``features=None`` leaves the features out everywhere, as the published decode steps do. The codes' places are
        looked up in the mask unless they are given (``KimiAudioForCausalLM.forward``).
        """
        embedded_BSD = self.embed_tokens(audio_ids_BS)
        if features is not None and is_audio_BS is not None:
            if places_N is None or lengths is None:
                places_N, lengths = places_of(is_audio_BS), audio_run_lengths(is_audio_BS)
            check_features(lengths, features)
            if features:
                # Features may have another dtype than a bf16 base; the adaptor's matmul and the scatter below need the
                # embedding's.
                rows_ND = torch.cat([f.to(device=embedded_BSD.device, dtype=embedded_BSD.dtype) for f in features])
                # sqrt(2) is computed in the model's dtype, as published: 1.4140625 in bf16.
                scale = embedded_BSD.new_full((), 2.0).sqrt()
                embedded_MD = embedded_BSD.flatten(0, 1)
                joined_ND = (embedded_MD.index_select(0, places_N) + self.vq_adaptor(rows_ND)) * scale
                embedded_BSD = embedded_MD.index_copy(0, places_N, joined_ND).view_as(embedded_BSD)
        return embedded_BSD + self.embed_tokens(text_ids_BS)

    def forward(
        self,
        embedded_BSD: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        audio_branch: bool = True,
        selected_N: Tensor | None = None,
        flat: Flat | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Normed hidden states of the text stack and (or None) of the audio branch, each ``[B, S, D]``.

        Of the text stack ``[N, D]`` when positions are selected (``DecoderLayer``). Embeddings and hidden states are
        ``[M, 1, D]`` with ``flat``, which the audio branch does not know.
        """
        if flat is not None:
            return self._flat(embedded_BSD, selected_N, flat), None
        positions = _positions(embedded_BSD, attention_mask, past_key_values)
        shared = {
            "attention_mask": self._mask(embedded_BSD, attention_mask, past_key_values),
            "position_ids": positions,
            "position_embeddings": self.rotary_emb(embedded_BSD, positions),
            CACHE: past_key_values,
            "use_cache": past_key_values is not None,
        }
        hidden, branch_BSD = embedded_BSD, None
        *layers, last = self.layers
        for index, layer in enumerate(layers):
            hidden = layer(hidden, **shared)
            if index == self.config.kimia_mimo_transformer_from_layer_index:
                branch_BSD = hidden
        if not audio_branch:
            return self.norm(last(hidden, selected_N=selected_N, **shared)), None
        hidden = last(hidden, **shared)
        branch_BSD = hidden if branch_BSD is None else branch_BSD
        for layer in self.mimo_layers:
            branch_BSD = layer(branch_BSD, **shared)
        return self.norm(selected(hidden, selected_N)), self.mimo_norm(branch_BSD)

    def _mask(self, embedded_BSD: Tensor, attention_mask: Tensor | None, cache: Cache | None) -> Tensor | None:
        """The mask of every pair; of a decode step on a GPU without asking it whether there is any padding."""
        by_torch = self.config._attn_implementation == "sdpa" and embedded_BSD.device.type != "cpu"
        if by_torch and attention_mask is not None and embedded_BSD.shape[1] == 1:
            return attention_mask[:, None, None].bool()
        return create_causal_mask(self.config, embedded_BSD, attention_mask, cache)

    def _flat(self, hidden: Tensor, selected_N: Tensor | None, flat: Flat) -> Tensor:
        in_rows = hidden.new_zeros(1).expand(flat.rows, flat.columns, 1)
        positions = torch.arange(flat.columns, device=hidden.device).unsqueeze(0)
        tables = self.rotary_emb(hidden, positions)
        shared = {
            "attention_mask": create_causal_mask(self.config, in_rows, None, None),
            "position_embeddings": tuple(table[0].index_select(0, flat.columns_M) for table in tables),
            CACHE: None,
            "flat": flat,
        }
        *layers, last = self.layers
        for layer in layers:
            hidden = layer(hidden, **shared)
        return self.norm(last(hidden, selected_N=selected_N, **shared))


class KimiAudioForCausalLM(PreTrainedModel):
    """Kimi-Audio with the published parameter names, driven by the config only.

    ``whisper_model`` is None unless ``attach_whisper`` was called: features are then computed inside ``forward``
    from waveforms, which online features and adapters on the encoder need.
    """

    config_class = KimiAudioConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules = ["DecoderLayer"]  # noqa: RUF012 - transformers' own convention

    def __init__(self, config: KimiAudioConfig) -> None:
        super().__init__(config)
        self.model = KimiAudioModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.mimo_output = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.whisper_model: WhisperFeatureExtractor | None = None
        self.masked = self.fused = False
        self.post_init()

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        dtype: torch.dtype = torch.float32,
        audio_branch: bool = True,
        device: str | torch.device = "cpu",
    ) -> KimiAudioForCausalLM:
        """Load the published layout (``config.json``, index, safetensors) without running remote code.

        With ``audio_branch=False`` the branch's tensors are not read, and the model cannot compute it. The model is
        built on the meta device and loaded tensor by tensor, straight onto ``device``; on the CPU, in the dtype of the
        files, it stays memory-mapped.

        Raises:
            DataError: names, shapes, the index's total_size or, for the 7B, the published parameter counts disagree.
        """
        folder = Path(folder)
        config = read_config(folder)
        config.dtype = dtype
        config.name_or_path = str(folder)  # PEFT writes it into adapter_config.json
        if not audio_branch:
            config.kimia_mimo_layers = 0
        with torch.device("meta"):
            model = cls(config)
        if not audio_branch:
            del model.mimo_output, model.model.mimo_norm

        def own_name(stored: str) -> str | None:
            unread = stored.endswith(STRAY_SUFFIX) or (not audio_branch and is_branch(stored))
            return None if unread else stored

        load_tensors(model, folder, own_name, dtype, device)
        if config.is_7b:
            check_parameter_count(model, "decoder" if audio_branch else "decoder without audio branch", folder)
        # The rotary table is not in the checkpoint, and has no values on the meta device.
        model.model.rotary_emb = type(model.model.rotary_emb)(config=config).to(device)
        return model.requires_grad_(False).eval()

    def attach_whisper(self, extractor: WhisperFeatureExtractor) -> None:
        """Add the Whisper encoder to this model, under ``whisper_model.``."""
        self.whisper_model = extractor

    @property
    def takes_flat(self) -> bool:
        """Whether ``flat`` may be given: on a CPU in float32, where all layers are our own."""
        layers: Any = self.model.layers
        weight = self.lm_head.weight
        may = weight.device.type == "cpu" and weight.dtype == torch.float32
        return may and not any(layer.is_plain(weight.dtype) for layer in layers)

    @property
    def takes_labels(self) -> bool:
        """Whether ``labels`` may be given: the head is frozen, and its losses may differ in rounding."""
        return self.fused and type(self.lm_head) is nn.Linear

    def _of_text(self, hidden: Tensor, labels_N: Tensor | None) -> dict[str, Tensor]:
        if labels_N is None:
            return {"text_logits": self.lm_head(hidden)}
        return {"text_losses": chunked_losses(hidden, self.lm_head.weight, labels_N)}

    def set_fused(self, fused: bool) -> None:
        """Compute layers in bfloat16, and adapters' updates of them (``lora.fused``), in few operations."""
        self.fused = fused
        for layer in (*self.model.layers, *self.model.mimo_layers):
            layer.fused = fused

    def set_plain(self, decoder: bool, whisper: bool) -> None:
        """Compute every layer of these parts by transformers' own code; with both, masks as it makes them too."""
        self.masked = decoder and whisper
        for layer in (*self.model.layers, *self.model.mimo_layers):
            layer.plain = decoder
        if self.whisper_model is not None:
            self.whisper_model.plain = whisper

    def forward(
        self,
        input_ids: Tensor,
        text_input_ids: Tensor,
        is_continuous_mask: Tensor | None = None,
        audio_features: Sequence[Tensor] | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        audio_branch: bool = True,
        text_positions: Tensor | None = None,
        waveforms: Sequence[Tensor] | None = None,
        audio_places: Tensor | None = None,
        audio_lengths: Sequence[int] | None = None,
        copies: int = 1,
        right_padded: bool = False,
        flat: Flat | None = None,
        labels: Tensor | None = None,
    ) -> KimiAudioOutput:
        """One pass over ``[B, S]`` positions of both streams.

        Args:
            input_ids: audio-stream ids ``[B, S]``.
            text_input_ids: text-stream ids ``[B, S]``.
            is_continuous_mask: true exactly at audio codes ``[B, S]``.
            audio_features: one ``[T_i, kimia_adaptor_input_dim]`` tensor per audio, in reading order over the batch;
                ``T_i`` must be the audio's number of codes. None leaves the features out.
            attention_mask: ``[B, past + S]``, 0 at padding on either side. Positions count the ones.
            past_key_values: cache to read and extend. ``use_cache=True`` starts a new one.
            text_positions: bool ``[B, S]``, or where they are among B * S positions, ``[N]``, which spares a host sync;
                text logits are computed only there and come back as ``[N, V]``.
            waveforms: 16 kHz mono waveforms instead of ``audio_features``, when a Whisper encoder is attached.
            audio_places, audio_lengths: where ``is_continuous_mask`` is true among B * S positions, and the number of
                codes of every audio; given, they spare a host sync each.
            copies: repeat all rows as this many blocks, for as many adapters; the embedding is computed once. The
                output has the rows, or positions, of all copies.
            right_padded: padding is on the right only, where causal attention needs no mask for it.
            labels: of the text logits' positions, ``[N]``: their losses are computed instead, by ``model.head_loss``.
            flat: compute the text logits of its answers, from its positions alone, where the model ``takes_flat``; it
                has its own copies.

        Raises:
            UserError: the features do not fit the audio codes (number of audios, or length of one).
        """
        if waveforms is not None and audio_features is None:
            assert self.whisper_model is not None, "waveforms given to a model without an attached Whisper encoder"
            audio_features = self.whisper_model(waveforms)
        if audio_branch and not len(self.model.mimo_layers):
            raise UserError("this model was read with audio_branch=False; read it with audio_branch=True")
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        places = (audio_places, audio_lengths)
        embedded = self.model.embed(input_ids, text_input_ids, is_continuous_mask, audio_features, *places)
        if flat is not None:
            hidden, _ = self.model(flat.of_embedding(embedded), selected_N=flat.answers_M, flat=flat)
            return KimiAudioOutput(**self._of_text(hidden, labels))
        selected_N = text_positions
        if text_positions is not None and text_positions.dtype == torch.bool:
            selected_N = places_of(text_positions)
        if copies > 1:
            selected_N = None if selected_N is None else repeated_places(selected_N, input_ids.numel(), copies)
            embedded = embedded.repeat(copies, 1, 1)
            attention_mask = None if attention_mask is None else attention_mask.repeat(copies, 1)
        if right_padded and not self.masked:
            attention_mask = None
        text_hidden, audio_hidden = self.model(embedded, attention_mask, past_key_values, audio_branch, selected_N)
        return KimiAudioOutput(
            **self._of_text(text_hidden, labels),
            audio_logits=None if audio_hidden is None else self.mimo_output(audio_hidden),
            past_key_values=past_key_values,
        )


def _positions(embedded_BSD: Tensor, attention_mask: Tensor | None, cache: Cache | None) -> Tensor:
    """Rotary positions ``[B or 1, S]``: 0, 1, 2, ... over the unpadded positions of each row."""
    length = embedded_BSD.shape[1]
    if attention_mask is not None:
        return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
    start = cache.get_seq_length() if cache is not None else 0
    return torch.arange(start, start + length, device=embedded_BSD.device).unsqueeze(0)


def check_features(lengths: Sequence[int], features: Sequence[Tensor]) -> None:
    """Check that every audio, of so many codes, has one feature tensor of exactly its length.

    The published code copies ``min(codes, rows)`` rows instead: a 32.16 s clip (402 codes) silently got the 375 feature
    rows of its first 30 s.
    """
    if len(lengths) != len(features):
        raise UserError(
            f"audio_features: {len(features)} feature tensors for {len(lengths)} audios in the batch; "
            "there must be one per audio, in reading order"
        )
    for index, (codes, rows) in enumerate(zip(lengths, features, strict=True)):
        if rows.ndim != 2 or rows.shape[0] != codes:
            raise UserError(
                f"audio_features[{index}]: shape {tuple(rows.shape)} for an audio of {codes} codes; features must be "
                f"[{codes}, dim]. Compute codes and features from the same waveform, in pieces of 30 s"
            )
