"""Character error rates of a base, greedy, on held-out general speech and on the demo's target domain."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from experiments.tiny_base.decoder import encode
from experiments.tiny_base.speech import make_clips
from kimi_audio_ft.config.train import DecodingConfig, ModelConfig
from kimi_audio_ft.data.dataset import make_batch
from kimi_audio_ft.decoding.generate import generate_texts
from kimi_audio_ft.features.encode import Encoders
from kimi_audio_ft.manifest.conversation import BLANK, TEXT_EOS
from kimi_audio_ft.model import KimiAudioForCausalLM, TextTokenizer
from kimi_audio_ft.model.files import locate
from kimi_audio_ft.paths import TINY_MODEL
from kimi_audio_ft.scoring import score

HELD_OUT_SEED = 12
DECODING = DecodingConfig(text_temperature=0.0, max_new_tokens=40)


def measure(folder: Path, domain: str, count: int) -> dict[str, float | int]:
    """Scores of ``count`` clips of one domain that the base was not trained on."""
    tokenizer = TextTokenizer.from_pretrained(folder)
    encoders = Encoders(locate(ModelConfig(path=str(folder))), features=True, dtype=torch.float32)
    model = KimiAudioForCausalLM.from_pretrained(folder, audio_branch=False)
    samples = encode(make_clips(domain, count, HELD_OUT_SEED), encoders, tokenizer, for_generation=True)
    hypotheses = {}
    for start in range(0, count, 25):
        some = samples[start : start + 25]
        inputs = make_batch(some, tokenizer.pad_id, left=True)["inputs"]
        special = tokenizer.special_tokens
        rows = generate_texts(model, inputs, [DECODING], [[0] * len(some)], special[TEXT_EOS], special[BLANK])[0]
        for sample, tokens in zip(some, rows, strict=True):
            text = [token for token in tokens if token <= tokenizer.pad_id]
            hypotheses[sample.id] = tokenizer.decode(text, skip_special=True)
    for sample in samples[:5]:
        print(f"  {sample.reference}  ->  {hypotheses[sample.id]}")
    return score({sample.id: sample.reference for sample in samples}, hypotheses)


def main() -> None:
    """Print both error rates."""
    parser = argparse.ArgumentParser(prog="python -m experiments.tiny_base.measure", description=__doc__)
    parser.add_argument("--model", type=Path, default=TINY_MODEL, help="folder of the base")
    parser.add_argument("--count", type=int, default=200, help="clips of each domain")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for domain in ("general", "target"):
        scores = measure(options.model, domain, options.count)
        print(f"{domain}: CER {scores['cer']:.1%}, exact match {scores['exact_match']:.1%}, {options.count} clips")


if __name__ == "__main__":
    main()
