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
        self._config, self._points, self._folder = config, NewPoints(), folder
        remove_events(folder)
        self._writer = _writer(folder)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if self._writer is not None:
            for name, value in self._points.of(metrics, step).items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()  # TensorBoard reads along

    def belongs_to(self, folder: Path) -> None:
        if self._writer is None or folder.resolve() == self._folder.resolve():
            return
        self._writer.close()
        remove_events(folder)
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        for path in _events(self._folder):
            path.rename(folder / FOLDER / path.name)
        self._folder, self._writer = folder, _writer(folder)  # goes on in a further file beside the first

    def finish(self, summary: Mapping[str, Any], utterances: Sequence[Utterance]) -> None:
        writer, self._writer = self._writer, None  # torch opens a closed writer again
        if writer is not None:
            options = {name: value if value is None else _cell(value) for name, value in flatten(self._config).items()}
            writer.add_hparams(options, summary_of(summary), run_name=".")  # "." is this run itself
            writer.close()

    def fail(self, message: str) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.add_text("failure", message)
            writer.close()


def remove_events(folder: Path) -> None:
    """Remove the event files that a folder's record has left."""
    for path in _events(folder):
        path.unlink()


def _events(folder: Path) -> list[Path]:
    return sorted((folder / FOLDER).glob("events.out.tfevents.*"))


def _writer(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / FOLDER))


def _cell(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else json.dumps(value, ensure_ascii=False)
