"""A trial's curves, options and scores as TensorBoard's event files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kimi_audio_ft.store.signature import flatten
from kimi_audio_ft.tracking.base import NewPoints, Tracker, Utterance
from kimi_audio_ft.tracking.wandb import summary_of

FOLDER = "tensorboard"


class TensorBoardRun(Tracker):
    """Writes event files into ``folder/tensorboard``, in place of those of an earlier attempt at the trial.

    Curves are scalars over the optimizer step. The options, by dotted names, and every figure of the scores are what
    TensorBoard's HPARAMS compares trials by.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._config, self._points = config, NewPoints()
        for path in (folder / FOLDER).glob("events.out.tfevents.*"):
            path.unlink()
        self._writer: Any = SummaryWriter(str(folder / FOLDER))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in self._points.of(metrics, step).items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # TensorBoard reads along

    def finish(self, summary: Mapping[str, Any], utterances: Sequence[Utterance]) -> None:
        options = {name: value if value is None else _cell(value) for name, value in flatten(self._config).items()}
        self._writer.add_hparams(options, summary_of(summary), run_name=".")  # "." is this run itself
        self._writer.close()

    def fail(self, message: str) -> None:
        self._writer.add_text("failure", message)
        self._writer.close()


def _cell(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else json.dumps(value, ensure_ascii=False)
