"""A measurement that the ladder asks of a child process: the workload, the way of working, how many steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from experiments.sweep_ladder.seconds import Seconds
from experiments.sweep_ladder.workload import Workload

OnRow = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Way:
    """How a trial works.

    everything: audio branch and both heads, at all positions. online: Whisper in every step. singly: micro-batches of
    one conversation. decoding: "singly", "batched" (of 8, a prefill for every setting), both by a merged model as
    published, or "together" (one prefill for all, by base and adapter). beside: processes that work so at the same
    time, a thread each. pack: adapters that train together. dispatch: of a pack.
    """

    everything: bool = False
    online: bool = False
    singly: bool = False
    decoding: str = "singly"
    beside: int = 1
    pack: int = 1
    dispatch: str = "slice"


@dataclass(frozen=True)
class Spec:
    """One measurement, handed to a child process as JSON.

    adapter: folder of the trained one. started: when the process was begun.
    """

    workload: Workload
    way: Way
    steps: int
    utterances: int
    adapter: str
    started: Seconds

    def as_json(self) -> dict[str, Any]:
        """For a child process."""
        return asdict(self) | {"workload": self.workload.as_json()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Spec:
        """The inverse of ``as_json``."""
        parts: dict[str, Any] = {"workload": Workload.from_json(values["workload"]), "way": Way(**values["way"])}
        parts["started"] = Seconds(**values["started"])
        return cls(**values | parts)
