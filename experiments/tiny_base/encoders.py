"""Pre-training of both frozen encoders: they learn to name sounds (CTC), as the published ones learned speech."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn
from torch.nn import functional

from experiments.tiny_base.speech import Clip, pad_mels
from kimi_audio_ft.model.speech_tokenizer import SpeechTokenizer
from kimi_audio_ft.model.whisper import WhisperFeatureExtractor

WHISPER: dict[str, Any] = {
    "d_model": 96,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 384,
    "num_mel_bins": 128,
    "max_source_positions": 1500,
    "activation_function": "gelu",
    "dropout": 0.0,
    "scale_embedding": False,
}
SPEECH_TOKENIZER: dict[str, Any] = WHISPER | {
    "d_model": 64,
    "encoder_layers": 2,
    "encoder_ffn_dim": 256,
    "quantize_position": 2,
    "quantize_vocab_size": 256,
    "quantize_encoder_only": True,
    "quantize_causal_encoder": False,
    "quantize_causal_block_size": 200,
    "quantize_ema_decay": 0.99,
    "pooling_kernel_size": 4,
    "pooling_type": "avg",
    "pooling_position": 2,
    "encoder_causal_attention": False,
    "encoder_causal_convolution": True,
}
FULL_FRAMES = 3000


def whisper_rows(extractor: WhisperFeatureExtractor, mel_BMF: Tensor) -> Tensor:
    """Encoder output ``[B, F / 2, D]`` for any number of frames; at 3000 it is the published forward."""
    encoder = extractor.encoder
    x = functional.gelu(encoder.conv2(functional.gelu(encoder.conv1(mel_BMF)))).transpose(1, 2)
    x = x + encoder.embed_positions.weight[: x.shape[1]]
    for layer in encoder.layers:
        x = layer(x, None)
    return encoder.layer_norm(x)


def tokenizer_rows(tokenizer: SpeechTokenizer, mel_BMF: Tensor, frames: Tensor) -> Tensor:
    """Rows ``[B, F / 2, D]`` before pooling."""
    x = functional.gelu(tokenizer._conv(tokenizer.conv1, mel_BMF))
    x = functional.gelu(tokenizer._conv(tokenizer.conv2, x)).transpose(1, 2)
    x = x + tokenizer.embed_positions.weight[: x.shape[1]]
    mask = tokenizer._attention_mask((frames * 160).tolist(), x.shape[1])
    for layer in tokenizer.layers:
        x = layer(x, mask)
    return x


def train_ctc(
    name: str,
    rows: Callable[[Tensor, Tensor], Tensor],
    module: nn.Module,
    width: int,
    clips: list[Clip],
    mels: list[Tensor],
    steps: int,
    batch: int,
    lr: float,
    head: nn.Linear | None = None,
    frames: int | None = None,
) -> nn.Linear:
    """Teach ``module`` to name the sounds of its clips; returns the CTC head, which a second phase goes on with."""
    sounds = sorted({sound for clip in clips for sound in clip.sounds})
    number = {sound: index + 1 for index, sound in enumerate(sounds)}
    head = head or nn.Linear(width, len(sounds) + 1)
    parameters = [p for p in (*module.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    rng, started = random.Random(1), time.time()
    for step in range(steps):
        chosen = rng.sample(range(len(clips)), batch)
        lengths = torch.tensor([mels[i].shape[1] for i in chosen])
        most = frames or int(lengths.max()) // 8 * 8 + 8 * rng.randint(1, 8)
        hidden = rows(pad_mels([mels[i] for i in chosen], most), lengths)
        targets = [torch.tensor([number[sound] for sound in clips[i].sounds]) for i in chosen]
        loss = functional.ctc_loss(
            head(hidden).log_softmax(-1).transpose(0, 1),
            torch.cat(targets),
            (lengths // 2).clamp(max=hidden.shape[1]),
            torch.tensor([len(target) for target in targets]),
            zero_infinity=True,
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"{name} step {step}: CTC loss {loss.item():.3f}, {time.time() - started:.0f} s", flush=True)
    return head


def train_whisper(clips: list[Clip], mels: list[Tensor], short_steps: int, full_steps: int) -> WhisperFeatureExtractor:
    """Most steps on windows as long as the clips, the last ones on the full 30 s that the encoder always sees."""
    torch.manual_seed(1)
    extractor = WhisperFeatureExtractor(WHISPER).train()

    def rows(mel: Tensor, _: Tensor) -> Tensor:
        return whisper_rows(extractor, mel)

    width = WHISPER["d_model"]
    head = train_ctc("whisper", rows, extractor, width, clips, mels, short_steps, 32, 3e-3)
    train_ctc("whisper 30 s", rows, extractor, width, clips, mels, full_steps, 8, 1e-3, head, FULL_FRAMES)
    return extractor.eval()


def train_speech_tokenizer(clips: list[Clip], mels: list[Tensor], steps: int) -> SpeechTokenizer:
    """CTC on the rows, then a codebook by k-means over the pooled vectors."""
    torch.manual_seed(2)
    tokenizer = SpeechTokenizer(SPEECH_TOKENIZER).train()
    width = SPEECH_TOKENIZER["d_model"]
    train_ctc("speech tokenizer", lambda mel, frames: tokenizer_rows(tokenizer, mel, frames), tokenizer, width,
              clips, mels, steps, 32, 3e-3)  # fmt: skip
    tokenizer.eval()
    with torch.no_grad():
        vectors = torch.cat(tokenizer.hidden([clip.waveform for clip in clips[:1500]]))
    means = MiniBatchKMeans(tokenizer.vocab_size, random_state=1, n_init=3).fit(vectors.numpy())
    tokenizer.codebook.weight.data.copy_(torch.from_numpy(means.cluster_centers_))
    return tokenizer
