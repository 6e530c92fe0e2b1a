"""Real recordings (LibriSpeech, in shared/audio) from a CSV to scores, with a few training steps."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from kimi_audio_ft.config import train
from kimi_audio_ft.config.commands import PrepareConfig, TokenizeConfig
from kimi_audio_ft.corpus.prepare import prepare
from kimi_audio_ft.decoding.transcripts import decode
from kimi_audio_ft.features.tokenize import tokenize
from kimi_audio_ft.manifest.audio import audio_info
from kimi_audio_ft.model import num_audio_tokens
from kimi_audio_ft.scoring.trial_scores import score_repeats
from kimi_audio_ft.trial import Trial


def test_from_csv_to_scores(shared_dir: Path, tmp_path: Path) -> None:
    audio = shared_dir / "audio"
    rows = [json.loads(line)["conversation"] for line in (audio / "librispeech_asr.jsonl").open(encoding="utf-8")]
    with (tmp_path / "corpus.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["audio", "text"], *([row[1]["content"], row[2]["content"]] for row in rows)])
    prepare(
        PrepareConfig(
            csv=str(tmp_path / "corpus.csv"),
            out=str(tmp_path / "data"),
            audio_pattern=f"{audio}/{{audio}}",
            prompt="Please transcribe the spoken content into written text.",
            eval_ratio=0.25,
            test_ratio=0.0,
        )
    )
    manifests = [str(tmp_path / "data" / f"{split}.jsonl") for split in ("train", "eval")]
    model = train.ModelConfig(path="tiny", dtype="float32")
    written = tokenize(TokenizeConfig(manifests=manifests, model=model, progress=False))

    trial = Trial(
        train.TrainConfig(
            data=train.DataConfig(train_manifest=str(written[0]), eval_manifest=str(written[1]), batch_size=2),
            model=model,
            lora=train.LoraConfig(r=4),
            optim=train.OptimConfig(lr=1e-3),
            decoding=train.DecodingConfig(text_temperature=0.0, max_new_tokens=24),
            trainer=train.TrainerConfig(max_steps=3, accumulate=1, log_every=1, progress=False),
            logger=train.LoggerConfig(kind="none"),
        )
    )
    adapter = trial.adapter()
    losses = [row for row in map(json.loads, (adapter.folder / "curves.jsonl").open()) if row["split"] == "train"]
    assert adapter.facts["steps"] == 3 and losses[-1]["loss"] < losses[0]["loss"]

    evaluation = trial.evaluation
    [held_out] = evaluation.conversations
    codes = next(m["audio_tokens"] for m in held_out.messages if m["message_type"] == "audio")
    assert len(codes) == num_audio_tokens(audio_info(held_out.audio_paths[0]).num_samples_16k)
    transcripts = decode(evaluation, trial.config.decoding, 1, (adapter.signature, adapter.folder))
    scores = score_repeats(evaluation.references, transcripts.hypotheses)
    assert scores["num_references"] == 1 and scores["num_reference_chars"] == len(held_out.reference)
    assert set(transcripts.hypotheses[0]) == {held_out.id}
