"""The rungs of the ladder, and what a sweep of any number of trials costs on each."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from experiments.sweep_ladder.seconds import Seconds
from experiments.sweep_ladder.spec import Way
from experiments.sweep_ladder.sweep import Sweep
from experiments.sweep_ladder.workload import Workload

LADDER = (
    "0: as published",
    "1: logits and branch only where needed",
    "2: features cached",
    "3: real batches",
    "4: no retraining for decoding values",
    "5: batched decoding, one prefill",
    "6: the base loaded once",
    "7: packs",
)
ASIDE = (
    "8: two packs side by side, a thread each, decoding in batches of 24",
    "0a: as 0, without validations during training",
    "0b: as 0, adapters reused over temperatures",
    "0c: as 0b, two processes side by side, a thread each",
    "3b: as 3, decoding in batches of 8",
)
BASELINES = ("0", "0a", "0b", "0c")
"""The published code: as it is used, and used well."""

_PUBLISHED = Way(everything=True, online=True, singly=True)
WAYS = {
    "published": _PUBLISHED,
    "both_cores": replace(_PUBLISHED, beside=2),
    "lean": Way(online=True, singly=True),
    "cached": Way(singly=True),
    "batched": Way(),
    "decoding8": Way(decoding="batched"),
    "together": Way(decoding="together"),
    "encoding": Way(online=True, singly=True, beside=2),
}
"""Ways of working measured on single trials, by name."""

SINGLE = {"0": "published", "0a": "published", "1": "lean", "2": "cached", "3": "batched", "3b": "decoding8"}
"""Rungs on which every trial works for itself, and the ways they work in."""

REUSING = {"0b": "published", "0c": "both_cores"}
"""Rungs on which the process of an adapter decodes all temperatures, and the ways they work in."""

SWEEPS = {
    "6": Sweep("one_base", 1, ("hydra.launcher.pack_size=1",)),
    "7": Sweep("packed", 1),
    "8": Sweep("side_by_side", 3, ("hydra.launcher.parallel=2", "trainer.threads=1", "decoding.batch_size=24")),
}
"""Rungs that are the command itself."""

PACKS = {
    "1 alone": Way(),
    "3, slice": Way(pack=3),
    "9, slice": Way(pack=9),
    "9, batched": Way(pack=9, dispatch="batched"),
}
"""Packs whose steps are measured, by name."""


@dataclass(frozen=True)
class Parts:
    """Parts of a trial in one way of working. load: the adapter for decoding. utterance: one under one setting."""

    start: Seconds
    step: Seconds
    validation: Seconds
    load: Seconds
    utterance: Seconds

    @classmethod
    def of(cls, found: dict[str, Any]) -> Parts:
        """From what a child has measured."""
        return cls(*(Seconds(**found[field.name]) for field in fields(cls)))


class Costs:
    """Seconds of a sweep on each rung.

    Args:
        found: by name, what children and sweeps measured.
        steps: optimizer steps of an adapter. utterances: of the evaluation set.
    """

    def __init__(self, work: Workload, found: dict[str, Any], steps: int, utterances: int) -> None:
        self.work, self.found, self.steps, self.utterances = work, found, steps, utterances

    def of(self, rung: str, trials: int | None = None) -> Seconds | None:
        """A sweep of so many trials (the whole one), up to four temperatures an adapter; None when not measured."""
        trials = self.work.trials if trials is None else trials
        adapters = -(-trials // len(self.work.temperatures))
        number = rung.split(":")[0]
        if number in SWEEPS:
            return self._real(number, adapters)
        once = self._features() if number not in (*BASELINES, "1") else Seconds()
        if number in SINGLE or number in REUSING:
            parts = self._parts((SINGLE | REUSING)[number])
            if parts is None or once is None:
                return None
            if number in REUSING:
                return self._reusing(parts, trials, adapters, WAYS[REUSING[number]].beside)
            train = parts.step * self.steps if number == "0a" else self._train(parts)
            return (parts.start + train + parts.load + parts.utterance * self.utterances) * trials + once
        one, together = self._parts("batched"), self._parts("together")
        decoder = one if number == "4" else together
        if one is None or decoder is None or once is None:
            return None
        loads = trials if number == "4" else adapters
        decode = decoder.load * loads + decoder.utterance * (self.utterances * trials)
        return one.start * trials + self._train(one) * adapters + decode + once

    def _reusing(self, parts: Parts, trials: int, adapters: int, beside: int) -> Seconds:
        """Every adapter's process trains it and decodes all temperatures, so many at the same time."""
        adapter = parts.start + self._train(parts) + parts.load
        whole = adapter * adapters + parts.utterance * (self.utterances * trials)
        rounds = -(-adapters // beside)
        return Seconds(whole.wall * rounds / adapters, whole.cpu)

    def _parts(self, name: str) -> Parts | None:
        return Parts.of(self.found[name]) if name in self.found else None

    def _train(self, parts: Parts) -> Seconds:
        return parts.step * self.steps + parts.validation * self.work.epochs

    def _features(self, beside: bool = False) -> Seconds | None:
        """The encoder's work, once for the corpus; ``beside``: by two processes, as ``tokenize devices=2`` does it."""
        part = "encoding" if beside else "lean"
        if part not in self.found:
            return None
        whole = Seconds(**self.found[part]["features"])
        return Seconds(whole.wall / WAYS[part].beside, whole.cpu)

    def _real(self, number: str, adapters: int) -> Seconds | None:
        """A measured sweep; of another number of adapters, its beginning and end and its part of the rest."""
        found, once = self.found.get(f"sweep {number}"), self._features(beside=number == "8")
        if found is None or once is None:
            return None
        cold, warm = Seconds(**found["cold"]), Seconds(**found["warm"])
        return warm + (cold - warm) * (adapters / found["adapters"]) + once

    def measured_on(self, rung: str) -> str:
        """The measurements behind a number, in words."""
        number = rung.split(":")[0]
        if number in SWEEPS:
            part = self.found.get(f"sweep {number}", {}).get("adapters", 0)
            return (
                "the whole sweep" if part == self.work.adapters else f"{part} of {self.work.adapters} adapters, scaled"
            )
        if number in ("4", "5"):
            return "parts of 3, put together" if number == "4" else "parts of 3 and of one decoding, put together"
        found = self.found[(SINGLE | REUSING)[number]]
        steps, utterances = len(found["losses"]), found["utterances"]
        return f"{steps} of {self.steps} steps, {utterances} of {self.utterances} utterances, scaled"
