"""Unlabelled recordings as training data: what the surest of one's own transcripts bring on the demo's corpus.

After `make demo`, in a folder of your own:

    python -m experiments.self_training split outputs/demo/data/train.jsonl my/self --labelled 200 --seed 1
    python -m kimi_audio_ft.tokenize 'manifests=[my/self/labelled.jsonl,my/self/truth.jsonl]'
    python -m kimi_audio_ft.train logger=none data.train_manifest=my/self/labelled.tokens.jsonl trainer.max_epochs=16 \\
        hydra.run.dir=my/self/first
    python -m kimi_audio_ft.transcribe audio=my/self/audio out=my/self/texts adapter=SIGNATURE format=csv surest=0.5 \\
        decoding.text_temperature=0.6 decoding.repeats=8
    python -m kimi_audio_ft.prepare csv=my/self/texts/surest.csv out=my/self/surest max_refused=1 \\
        start_column=start end_column=end eval_ratio=0 test_ratio=0
    python -m kimi_audio_ft.prepare csv=my/self/texts/transcripts.csv out=my/self/all max_refused=1 \\
        start_column=start end_column=end eval_ratio=0 test_ratio=0
    python -m kimi_audio_ft.tokenize 'manifests=[my/self/surest/train.jsonl,my/self/all/train.jsonl]'
    python -m experiments.self_training judge my/self
    python -m kimi_audio_ft.train -m logger=none trainer.max_epochs=1000 trainer.max_steps=300 \\
        hydra.sweep.dir=my/self/sweep 'data.train_manifest=...'

`judge` prints the last option as it has to be typed: the labelled part alone; with the surest transcripts; with all;
and with the true ones, which is the most that transcripts could bring. Steps are constant, so that all cost the same.
It also prints the error rate of the transcripts: of the surest and how many these are, and of all, in which those that
did not come back count as empty. experiments/recogniser.md has the figures.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kimi_audio_ft.files import read_jsonl, write_jsonl
from kimi_audio_ft.scoring import score

# Of the manifests that the last training takes, beside the labelled one.
OTHERS = ("surest/train.tokens.jsonl", "all/train.tokens.jsonl", "truth.tokens.jsonl")


def split(manifest: Path, out: Path, labelled: int, seed: int) -> None:
    """Write labelled.jsonl, whole recordings with so many lines or a few more, and truth.jsonl with the others.

    The recordings of the others are in ``audio``, named by their ids.
    """
    lines = read_jsonl(manifest)
    groups = sorted({line["group"] for line in lines})
    random.Random(seed).shuffle(groups)
    taken: set[str] = set()
    for group in groups:
        if sum(line["group"] in taken for line in lines) >= labelled:
            break
        taken.add(group)
    (out / "audio").mkdir(parents=True)
    for line in lines:
        message = line["conversation"][1]
        recording = (manifest.parent / message["content"]).resolve()
        message["content"] = str(recording)
        if line["group"] not in taken:
            (out / "audio" / f"{line['id']}{recording.suffix}").symlink_to(recording)
    write_jsonl(out / "labelled.jsonl", [line for line in lines if line["group"] in taken])
    write_jsonl(out / "truth.jsonl", [line for line in lines if line["group"] not in taken])


def judge(folder: Path) -> None:
    """Print the error rates of what the adapter has transcribed, and the option that trains on it."""
    truth = {line["id"]: reference_of(line) for line in read_jsonl(folder / "truth.jsonl")}
    surest, every = (
        {line["id"]: reference_of(line) for line in read_jsonl(folder / name / "train.jsonl")}
        for name in ("surest", "all")
    )
    kept = score({key: truth[key] for key in surest}, surest)["cer"]
    whole = score(truth, {key: every.get(key, "") for key in truth})["cer"]
    print(
        f"surest: {len(surest)} of {len(truth)} transcripts ({len(surest) / len(truth):.1%}), CER {kept:.2%} of these"
    )
    print(f"all: {len(every)} of {len(truth)} transcripts, CER {whole:.2%} with the missing ones as empty")
    labelled = folder / "labelled.tokens.jsonl"
    choices = [f"[{labelled}]", *(f"[{labelled},{folder / other}]" for other in OTHERS)]
    print(f"'data.train_manifest={','.join(choices)}'")


def reference_of(line: dict[str, Any]) -> str:
    return str(line["conversation"][-1]["content"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.self_training", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    splitting = commands.add_parser("split", help="write a labelled part, and the recordings of the others")
    splitting.add_argument("manifest", type=Path, help="a manifest of whole recordings, as prepare writes it")
    splitting.add_argument("out", type=Path, help="folder to make")
    splitting.add_argument("--labelled", type=int, default=200)
    splitting.add_argument("--seed", type=int, default=1)
    judging = commands.add_parser("judge", help="compare the transcripts with the truth")
    judging.add_argument("folder", type=Path, help="the folder")
    options = parser.parse_args(arguments)
    if options.command == "split":
        split(options.manifest, options.out, options.labelled, options.seed)
    else:
        judge(options.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
