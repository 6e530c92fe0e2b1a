"""The ladder's upper rungs for real: the command a person types, timed from outside."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.sweep_ladder.seconds import Seconds, now
from experiments.sweep_ladder.workload import Workload
from kimi_audio_ft.files import read_jsonl


@dataclass(frozen=True)
class Sweep:
    """A run of the sweep's command.

    name: of its store and folder. rates: how many of the workload's; the rest is scaled. options: more of the
    command's.
    """

    name: str
    rates: int
    options: tuple[str, ...] = ()


def run(work: Workload, sweep: Sweep, again: bool = True) -> dict[str, Any]:
    """Run it in a store that holds the features alone, and then again with nothing left to do, unless told not to.

    Returns:
        ``cold`` and ``warm`` seconds, number of ``adapters``, ``cer`` by trial, and every adapter's folder by trial.
    """
    folder = work.folder / "sweeps" / sweep.name
    for left in (folder, work.folder / "stores" / sweep.name):
        shutil.rmtree(left, ignore_errors=True)
    cold = _timed(work, sweep, folder)
    warm = _timed(work, sweep, folder) if again else Seconds()
    trials = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/scores.json"))]
    wanted = len(work.ranks) * len(work.rates[: sweep.rates]) * len(work.temperatures)
    assert len(trials) == wanted, f"{len(trials)} of {wanted} trials came to their end; see {folder}"
    return {
        "cold": asdict(cold),
        "warm": asdict(warm),
        "adapters": len({trial["signature"] for trial in trials}),
        "cer": {trial["trial"]: trial["cer"] for trial in trials},
        "val_loss": {trial["trial"]: trial["final_val_loss"] for trial in trials},
        "trials": {trial["trial"]: [trial["signature"], trial["transcript_signatures"][0]] for trial in trials},
        "store": str(work.store(sweep.name)),
    }


def _timed(work: Workload, sweep: Sweep, folder: Path) -> Seconds:
    def several(values: Sequence[float]) -> str:
        return ",".join(f"{value:g}" for value in values)

    command = [
        sys.executable, "-m", "kimi_audio_ft.train", "-m", *work.overrides, f"lora.r={several(work.ranks)}",
        f"optim.lr={several(work.rates[: sweep.rates])}", f"decoding.text_temperature={several(work.temperatures)}",
        f"hydra.sweep.dir={folder}", *sweep.options,
    ]  # fmt: skip
    environment, log = work.environment(sweep.name), work.folder / f"{sweep.name}.log"
    before = now()
    with log.open("a", encoding="utf-8") as file:
        done = subprocess.run(command, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise SystemExit(f"the sweep {sweep.name} failed; see {log}")
    return now() - before


def adapter_of(found: dict[str, Any], trial: str) -> Path:
    """Folder of a trial's adapter."""
    return Path(found["store"]) / "adapter" / found["trials"][trial][0]


def losses_of(found: dict[str, Any], trial: str) -> list[float]:
    """Training loss of every step of a trial's adapter."""
    rows = read_jsonl(adapter_of(found, trial) / "curves.jsonl")
    return [row["loss"] for row in rows if row["split"] == "train"]


def texts_of(found: dict[str, Any], trial: str) -> dict[str, str]:
    """Transcript of a trial by utterance."""
    rows = read_jsonl(Path(found["store"]) / "transcript" / found["trials"][trial][1] / "transcripts.jsonl")
    return {row["id"]: row["text"] for row in rows}
