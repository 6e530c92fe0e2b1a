"""Wrong labels planted into the demo's corpus, and how many of them `multirun_analysis.labels` finds.

    python -m experiments.planted_labels plant outputs/demo/data/train.tokens.jsonl my/planted --seed 1
    python -m experiments.planted_labels judge my/planted my/planted/labels/suspects.csv

`experiments/labels.md` has the commands between the two, and the figures.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kimi_audio_ft.files import read_jsonl, write_json, write_jsonl

# 5.6 % of the demo's 768 references: texts of other recordings, texts that end early, a digit or two characters wrong.
KINDS = {"swapped": 15, "truncated": 14, "subtle": 14}
TOPS = (20, 43, 173)
MANIFEST, PLANTED = "train.tokens.jsonl", "planted.json"


def plant(lines: Sequence[dict[str, Any]], seed: int) -> dict[str, dict[str, str]]:
    """Change the texts of a manifest's lines in place; by id, the kind, the right text and the planted one."""
    rng = random.Random(seed)
    texts = {line["id"]: line["conversation"][-1]["content"] for line in lines}
    chosen = iter(rng.sample([name for name in texts if len(texts[name]) > 2], sum(KINDS.values())))
    kinds = {next(chosen): kind for kind, count in KINDS.items() for _ in range(count)}
    swapped = [name for name, kind in kinds.items() if kind == "swapped"]
    characters = sorted({char for text in texts.values() for char in text if "\u4e00" <= char <= "\u9fff"})
    planted = {}
    for name, kind in kinds.items():
        text = texts[name]
        if kind == "swapped":
            place = swapped.index(name) + 1
            others = [texts[other] for other in swapped[place:] + swapped[:place]]
            wrong = next(other for other in others if other != text)  # recordings may say the same
        elif kind == "truncated":
            wrong = text[: max(2, round(len(text) * rng.uniform(0.4, 0.7)))]
        else:
            wrong = subtly_wrong(text, characters, rng)
        planted[name] = {"kind": kind, "right": text, "wrong": wrong}
    for line in lines:
        if line["id"] in planted:
            line["conversation"][-1]["content"] = planted[line["id"]]["wrong"]
    return planted


def subtly_wrong(text: str, characters: Sequence[str], rng: random.Random) -> str:
    """Another digit, or two other characters where there is none."""
    written = list(text)
    digits = [place for place, char in enumerate(text) if char in "0123456789"]
    if digits:
        place = rng.choice(digits)
        written[place] = rng.choice([digit for digit in "123456789" if digit != text[place]])
    else:
        first = rng.randrange(len(text) - 1)
        for place in (first, first + 1):
            written[place] = rng.choice([char for char in characters if char != text[place]])
    return "".join(written)


def judge(planted: dict[str, dict[str, str]], suspects: Sequence[dict[str, str]]) -> None:
    """Print, for each top of the list, the precision, the finds by kind, and how many suspect words were planted."""
    for top in TOPS:
        found = [row for row in suspects[:top] if row["id"] in planted]
        kinds = Counter(planted[row["id"]]["kind"] for row in found)
        subtle = [row for row in found if planted[row["id"]]["kind"] == "subtle"]
        named = sum(is_planted_word(row, planted[row["id"]]) for row in subtle)
        told = ", ".join(f"{kinds[kind]} of {count} {kind}" for kind, count in KINDS.items())
        print(f"first {top}: precision {len(found) / top:.2f}; {told}, of these {named} by the planted word")


def is_planted_word(row: dict[str, str], planted: dict[str, str]) -> bool:
    """Whether the suspect word has a character that was planted."""
    right, wrong, word = planted["right"], planted["wrong"], row["suspect_word"]
    changed = [place for place, (one, other) in enumerate(zip(right, wrong, strict=True)) if one != other]
    starts = [place for place in range(len(wrong)) if word and wrong.startswith(word, place)]
    return any(start <= place < start + len(word) for start in starts for place in changed)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.planted_labels", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    planting = commands.add_parser("plant", help="write a manifest with wrong labels")
    planting.add_argument("manifest", type=Path, help="a tokenized manifest")
    planting.add_argument("out", type=Path, help=f"folder for {MANIFEST} and {PLANTED}")
    planting.add_argument("--seed", type=int, default=1)
    judging = commands.add_parser("judge", help="compare a list of suspects with what was planted")
    judging.add_argument("planted", type=Path, help="the folder")
    judging.add_argument("suspects", type=Path, help="suspects.csv")
    options = parser.parse_args(arguments)
    if options.command == "plant":
        lines = read_jsonl(options.manifest)
        write_json(options.out / PLANTED, plant(lines, options.seed))
        write_jsonl(options.out / MANIFEST, lines)
        return 0
    with options.suspects.open(encoding="utf-8-sig", newline="") as file:
        judge(json.loads((options.planted / PLANTED).read_text(encoding="utf-8")), list(csv.DictReader(file)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
