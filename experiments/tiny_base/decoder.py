"""Pre-training of the two-stream decoder on frozen features and codes, as a transcriber of general speech."""

from __future__ import annotations

import math
import random
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kimi_audio_ft.config.train import DEFAULT_PROMPT
from kimi_audio_ft.data.dataset import Sample, make_batch
from kimi_audio_ft.features.encode import Encoders
from kimi_audio_ft.manifest.conversation import MEDIA_BEGIN, MEDIA_END, layout_conversation
from kimi_audio_ft.model import KimiAudioConfig, KimiAudioForCausalLM, TextTokenizer
from kimi_audio_ft.training.module import answer_loss

from experiments.published_layout import write_text_tokenizer  # isort: skip
from experiments.tiny_base.speech import Clip  # isort: skip


def write_tokenizer(folder: Path, characters: list[str]) -> TextTokenizer:
    """Byte-level ranks in which every character of the vocabulary is one token."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    for character in characters:
        data = character.encode()
        for end in range(2, len(data) + 1):  # tiktoken reaches a token only through its prefixes' merges
            ranks.setdefault(data[:end], len(ranks))
    return write_text_tokenizer(folder, ranks)


def decoder_config(tokenizer: TextTokenizer, num_codes: int, feature_dim: int) -> KimiAudioConfig:
    """The published architecture at hidden size 128."""
    offset = tokenizer.pad_id + 1
    special = tokenizer.special_tokens
    return KimiAudioConfig(
        vocab_size=offset + num_codes,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        kimia_mimo_layers=1,
        kimia_mimo_transformer_from_layer_index=3,
        kimia_adaptor_input_dim=feature_dim,
        kimia_token_offset=offset,
        kimia_text_output_vocab=offset,
        kimia_audio_output_vocab=num_codes,
        num_audio_special_tokens=0,
        num_base_tokens=min(special.values()),
        kimia_media_begin=special[MEDIA_BEGIN],
        kimia_media_end=special[MEDIA_END],
        pad_token_id=tokenizer.pad_id,
        bos_token_id=tokenizer.bos_id,
        eos_token_ids=[tokenizer.eos_id, special["<|im_msg_end|>"]],
        max_position_embeddings=8192,
        rope_theta=1e6,
        tie_word_embeddings=False,
    )


def encode(
    clips: list[Clip], encoders: Encoders, tokenizer: TextTokenizer, for_generation: bool = False
) -> list[Sample]:
    """Frozen features and codes of every clip, through the store, laid out for training or as a prompt."""
    store, started = encoders.store(), time.time()
    missing = [clip for clip in clips if clip.key not in store]
    if missing:
        speech_tokenizer, whisper = encoders.load()
        assert whisper is not None
        for start in range(0, len(missing), 16):
            some = missing[start : start + 16]
            waveforms = [clip.waveform for clip in some]
            codes = [row.tolist() for row in speech_tokenizer.encode(waveforms)]
            features = whisper.encode(waveforms)
            store.add([(clip.key, c, f) for clip, c, f in zip(some, codes, features, strict=True)])
            if start % 800 == 0:
                print(f"encoded {start} of {len(missing)} clips, {time.time() - started:.0f} s", flush=True)
    samples = []
    for clip in clips:
        audio_tokens = [code + tokenizer.pad_id + 1 for code in store.codes(clip.key)]
        conversation: list[dict[str, Any]] = [
            {"role": "user", "message_type": "text", "content": DEFAULT_PROMPT},
            {"role": "user", "message_type": "audio", "audio_tokens": audio_tokens},
            {"role": "assistant", "message_type": "text", "content": clip.text},
        ]
        layout = layout_conversation(conversation, tokenizer, "understanding", for_generation)
        samples.append(Sample(clip.key, layout, [store.features(clip.key)], reference=clip.text))
    return samples


def loss_of(model: KimiAudioForCausalLM, samples: list[Sample], pad_id: int) -> Tensor:
    """Mean loss per answer token."""
    batch = make_batch(samples, pad_id)
    mask = batch["text_loss_mask"]
    logits = model(**batch["inputs"], audio_branch=False, text_positions=mask).text_logits
    total = answer_loss(logits, batch["text_labels"][mask], mask.nonzero()[:, 0], len(samples), "token")
    return total / mask.sum()


def train_decoder(
    config: KimiAudioConfig, samples: list[Sample], held_out: list[Sample], steps: int, batch: int, lr: float
) -> KimiAudioForCausalLM:
    """AdamW with warm-up and cosine decay over batches of clips of similar length."""
    torch.manual_seed(3)
    pad_id = config.kimia_token_offset - 1
    model = KimiAudioForCausalLM(config).train()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
    rng, started = random.Random(4), time.time()
    for step in range(steps):
        pool = sorted(rng.sample(range(len(samples)), batch * 4), key=lambda i: len(samples[i].layout))
        start = rng.randrange(4) * batch
        loss = loss_of(model, [samples[i] for i in pool[start : start + batch]], pad_id)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            with torch.no_grad():
                unseen = loss_of(model.eval(), held_out[:96], pad_id)
            model.train()
            print(
                f"decoder step {step}: loss {loss.item():.3f}, held out {unseen.item():.3f}, "
                f"{time.time() - started:.0f} s",
                flush=True,
            )
    return model.eval()


def rate(step: int, steps: int, warmup: int = 100) -> float:
    """Linear warm-up, then cosine decay to a hundredth."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
