"""One trial, worked through in one of the ladder's ways, with a clock at every part: a process of its own.

    python -m experiments.sweep_ladder.child SPEC.json    (written by ``components``)

It trains the first steps of an adapter, validates once, and decodes some utterances with an adapter that a sweep of the
same workload has trained to its end, so that answers are as long as they will be.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.sweep_ladder.seconds import Seconds, now
from experiments.sweep_ladder.spec import Spec


def measure(spec: Spec) -> dict[str, Any]:
    """Seconds of each part, and what came out.

    Returns:
        The seconds (``start``, ``step``, ``validation``, ``load``: the adapter for decoding, ``utterance``: one setting
        of one), ``losses`` of the steps, and ``texts`` by temperature and id.
    """
    from experiments.sweep_ladder.ways import decoded, decoder, encoding, fitted, prepared

    trial, data = prepared(spec)
    marks: list[tuple[str, Seconds, float]] = []

    def on_row(name: str, row: dict[str, Any]) -> None:
        if row["split"] == "val" or name.endswith("0"):  # a pack's adapters report together
            marks.append((row["split"], now(), row["loss"]))

    with tempfile.TemporaryDirectory() as folder:
        fitted(spec, trial, data, Path(folder), on_row)
    train = [(when, loss) for split, when, loss in marks if split == "train"]
    validated = next(when for split, when, _ in marks if split == "val")
    first, last, share = train[0][0], train[-1][0], 1 / spec.way.pack
    step = (last - first) * (1 / (len(train) - 1))
    found: dict[str, Any] = {"start": first - step - spec.started, "step": step * share}
    found["validation"] = (validated - last) * share
    found["losses"] = [loss for _, loss in train]
    if spec.way.online and not spec.way.everything:
        found["features"] = encoding(trial, data, 4 * spec.utterances)
    if spec.utterances:
        before = now()
        with decoder(spec, trial) as model:
            loaded = now()
            texts, count = decoded(spec, trial, model)
            done = now()
        found["load"] = loaded - before
        found["utterance"] = (done - loaded) * (1 / (count * len(spec.workload.temperatures)))
        found["texts"], found["utterances"] = texts, count
    trial.base.release()
    return {key: asdict(value) if isinstance(value, Seconds) else value for key, value in found.items()}


def main() -> None:
    """Measure what the file says; one line of JSON."""
    spec = Spec.from_json(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    print(json.dumps(measure(spec)))


if __name__ == "__main__":
    main()
