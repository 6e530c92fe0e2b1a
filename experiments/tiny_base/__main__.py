"""Make the embedded base model again from nothing; see README.md beside this file."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from experiments.published_layout import write_model, write_speech_tokenizer, write_whisper
from experiments.tiny_base.decoder import decoder_config, encode, train_decoder, write_tokenizer
from experiments.tiny_base.encoders import SPEECH_TOKENIZER, WHISPER, train_speech_tokenizer, train_whisper
from experiments.tiny_base.speech import make_clips
from kimi_audio_ft.config.train import DEFAULT_PROMPT
from kimi_audio_ft.demo.sentences import vocabulary
from kimi_audio_ft.features.encode import Encoders
from kimi_audio_ft.model.files import ModelFiles


def main() -> None:
    """Train the encoders (unless ``--out`` has them), then the decoder; write the published layout."""
    parser = argparse.ArgumentParser(prog="python -m experiments.tiny_base", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("outputs/tiny_base/model"), help="folder of the new base")
    parser.add_argument("--clips", type=int, default=9000, help="general sentences to train on")
    parser.add_argument("--whisper-steps", type=int, default=2000, help="steps of the encoder on short windows")
    parser.add_argument("--full-steps", type=int, default=250, help="steps of the encoder on 30 s windows")
    parser.add_argument("--tokenizer-steps", type=int, default=1200, help="steps of the speech tokenizer")
    parser.add_argument("--decoder-steps", type=int, default=1500, help="steps of the decoder")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    started = time.time()

    def stage(name: str) -> None:
        print(f"[{time.time() - started:6.0f} s] {name}", flush=True)

    stage("speech")
    clips = make_clips("general", options.clips, seed=11)
    held_out = make_clips("general", 200, seed=12)
    if not (options.out / "glm-4-voice-tokenizer" / "config.json").is_file():
        mels = [clip.mel() for clip in clips]
        stage("whisper")
        whisper = train_whisper(clips, mels, options.whisper_steps, options.full_steps)
        write_whisper(whisper.half(), options.out / "whisper-large-v3")
        stage("speech tokenizer")
        speech_tokenizer = train_speech_tokenizer(clips, mels, options.tokenizer_steps)
        write_speech_tokenizer(speech_tokenizer, options.out / "glm-4-voice-tokenizer")
    tokenizer = write_tokenizer(options.out, [*vocabulary(), *sorted(set(DEFAULT_PROMPT))])
    stage("features and codes")  # of the encoders as rounded on disk: the decoder must learn what users will have
    files = ModelFiles(options.out, options.out / "whisper-large-v3", options.out / "glm-4-voice-tokenizer")
    encoders = Encoders(files, features=True, dtype=torch.float32)
    samples = encode(clips, encoders, tokenizer)
    unseen = encode(held_out, encoders, tokenizer)
    stage("decoder")
    config = decoder_config(tokenizer, SPEECH_TOKENIZER["quantize_vocab_size"], 4 * WHISPER["d_model"])
    model = train_decoder(config, samples, unseen, options.decoder_steps, batch=48, lr=2e-3)
    write_model(model, options.out, torch.bfloat16)
    size = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file())
    stage(f"wrote {options.out}: {sum(p.numel() for p in model.parameters()):,} parameters, {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
