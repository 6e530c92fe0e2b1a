"""Evidence for label errors: transcripts and losses of several adapters on the same audio, from evaluation folders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kimi_audio_ft.errors import DataError, UserError
from kimi_audio_ft.manifest.conversation import checked_line, id_of, reference_of
from kimi_audio_ft.manifest.manifest import numbered_lines
from kimi_audio_ft.manifest.part import WHOLE, Part
from kimi_audio_ft.sweep_folder import UTTERANCES
from multirun_analysis.sweep import Trial, collect

FIRST_COMMAND = (
    "Its input is written by: python -m kimi_audio_ft.evaluate -m adapter=SIGNATURE,SIGNATURE,null "
    "losses=true decoding=greedy data.eval_manifest=TRAIN.tokens.jsonl, with the model= options of the training "
    "(`python -m kimi_audio_ft.store ls` lists the signatures; null is the base alone)"
)
LEAST_WEIGHT = 0.02
"""Of an adapter all of whose characters are wrong, before it is squared."""
CODE_SECONDS = 0.08
"""Length of audio of one semantic code."""


@dataclass(frozen=True)
class Utterance:
    """A reference, its audio, and per adapter a transcript and the reference's loss.

    part: what is heard of the audio file. seconds: length of it, or None. line: in the manifest, if one was given.
    losses: mean nats per answer token. token_losses: nats of every token and of the end; token_starts: the character of
    the reference (in NFC) that each token begins in, ``[N]`` both, and the same for all adapters.
    """

    id: str
    reference: str
    audio: str | None
    recording: str
    seconds: float | None
    line: int | None = None
    part: Part = WHOLE
    votes: dict[str, str] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    token_starts: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    token_losses: dict[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """All utterances, the adapters with their CER (the best first), and notes for the user."""

    utterances: list[Utterance]
    adapters: dict[str, float]
    notes: list[str]

    @cached_property
    def weights(self) -> dict[str, float]:
        """What an adapter's word counts, by its own error rate: the chance that two like it both write a character
        right. A base without an adapter, which mishears nearly all, must not vote as an equal.
        """
        return {adapter: max(LEAST_WEIGHT, 1.0 - cer) ** 2 for adapter, cer in self.adapters.items()}


def gather(folders: Sequence[Path], manifest: Path | None = None) -> Evidence:
    """Read evaluation folders, or multiruns of evaluations over adapters.

    Each adapter has one vote, its first transcript, because its other decodings make the same mistakes.

    Args:
        manifest: the current data set; references changed or removed since the evaluations are left out.

    Raises:
        UserError: a folder holds no evaluation, the folders disagree about a reference, or a file cannot be read.
    """
    found: dict[str, Utterance] = {}
    adapters: dict[str, float] = {}
    for trial in _trials(folders):
        adapter = trial.record.get("signature") or str(trial.folder)
        adapters.setdefault(adapter, trial.cer)
        for row in trial.utterances:
            _add(found, adapter, row, trial)
    utterances, notes = (list(found.values()), []) if manifest is None else _as_in(manifest, found)
    best_first = dict(sorted(adapters.items(), key=lambda one: one[1]))
    return Evidence(utterances, best_first, notes)


def _trials(folders: Sequence[Path]) -> Iterator[Trial]:
    for folder in folders:
        try:
            trials = [trial for trial in collect(folder).finished if trial.utterances]
        except DataError as error:
            raise UserError(f"{error}. {FIRST_COMMAND}") from None
        if not trials:
            raise DataError(folder, "holds no finished evaluation with utterances.jsonl", FIRST_COMMAND)
        yield from trials


def _add(found: dict[str, Utterance], adapter: str, row: Mapping[str, Any], trial: Trial) -> None:
    name = str(row["id"])
    seen = found.get(name)
    if seen is None:
        recording = str(row.get("recording") or name)
        seen = Utterance(name, row["reference"], row.get("audio"), recording, row.get("seconds"), part=Part.of(row))
        starts = np.array([start for start, _ in row.get("token_losses") or ()], np.int32)
        seen = found[name] = replace(seen, token_starts=starts)
    elif seen.reference != row["reference"]:
        problem = f"has another reference for {name!r} ({row['reference']!r}) than before ({seen.reference!r})"
        raise DataError(trial.folder / UTTERANCES, problem, "Evaluate all adapters on one manifest")
    seen.votes.setdefault(adapter, row["hypothesis"])
    if row.get("loss") is not None:
        seen.losses.setdefault(adapter, row["loss"])
    tokens = row.get("token_losses") or ()
    if len(tokens) == len(seen.token_starts) > 0:
        seen.token_losses.setdefault(adapter, np.array([loss for _, loss in tokens], np.float32))


def _as_in(manifest: Path, found: Mapping[str, Utterance]) -> tuple[list[Utterance], list[str]]:
    """Utterances whose references are still in the manifest, with line numbers, lengths and groups from it."""
    kept, changed, unheard = [], 0, 0
    for number, text in numbered_lines(manifest):
        value = checked_line(text, manifest, number)
        name = id_of(value, number)
        utterance = found.get(name)
        if utterance is None:
            unheard += 1
        elif utterance.reference != reference_of(value["conversation"]):
            changed += 1
        else:
            codes = sum(len(message.get("audio_tokens") or ()) for message in value["conversation"])
            seconds = utterance.seconds or codes * CODE_SECONDS or None
            recording = str(value.get("group") or utterance.recording)
            kept.append(replace(utterance, line=number, seconds=seconds, recording=recording))
    if not kept:
        raise DataError(manifest, "holds none of the references that were evaluated", FIRST_COMMAND)
    removed = len(found) - len(kept) - changed
    counts = (
        (changed, "have another text in the manifest by now and are left out"),
        (removed, "are no longer in the manifest and are left out"),
        (unheard, "of the manifest were not evaluated"),
    )
    return kept, [f"{count} references {what}" for count, what in counts if count]
