"""Duplicate recordings with different references."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from kimi_audio_ft.manifest.audio import AudioError, AudioInfo, audio_info, decode, open_recording
from multirun_analysis.labels.evidence import Utterance


@dataclass(frozen=True)
class Listening:
    """Facts from the recordings, by utterance id.

    seconds: lengths from headers. same: utterances with identical samples. missing: number of unreadable recordings.
    """

    seconds: dict[str, float]
    same: dict[str, list[Utterance]]
    missing: int


def listen(utterances: Sequence[Utterance]) -> Listening:
    """Read every recording's header, and compare the decoded samples of those with equal length.

    Decoded samples are independent of the container: a wav equals the flac made from it.
    """
    infos: dict[str, AudioInfo] = {}
    for utterance in utterances:
        with suppress(AudioError):
            if utterance.audio is not None:
                infos[utterance.id] = audio_info(utterance.audio, utterance.part)
    heard = [utterance for utterance in utterances if utterance.id in infos]
    lengths = [(info.num_samples_16k, info.sample_rate) for info in infos.values()]
    alike = [utterance for group in _groups(heard, lengths) for utterance in group]
    equal = _groups(alike, map(_digest, alike))
    return Listening(
        seconds={name: info.seconds for name, info in infos.items()},
        same={one.id: [other for other in group if other is not one] for group in equal for one in group},
        missing=len(utterances) - len(heard),
    )


def other_texts(same: Mapping[str, Sequence[Utterance]], texts: Mapping[str, str]) -> dict[str, Utterance]:
    """For each utterance with the same audio as one with another text, the first such other one.

    ``texts`` are compared, by id.
    """
    found = {name: [one for one in others if texts[one.id] != texts[name]] for name, others in same.items()}
    return {name: different[0] for name, different in found.items() if different}


def _digest(utterance: Utterance) -> str:
    assert utterance.audio is not None
    try:
        return decode(open_recording(utterance.audio, utterance.part)).digest()
    except AudioError:
        return utterance.id  # damaged after its header: equal to no other


def _groups(utterances: Iterable[Utterance], keys: Iterable[Hashable]) -> list[list[Utterance]]:
    """Groups of several utterances with equal keys."""
    groups: dict[Hashable, list[Utterance]] = {}
    for utterance, key in zip(utterances, keys, strict=True):
        groups.setdefault(key, []).append(utterance)
    return [group for group in groups.values() if len(group) > 1]
