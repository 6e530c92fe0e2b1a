"""Duplicate recordings with different references."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from kimi_audio_ft.manifest.audio import AudioError, AudioInfo, audio_info, content_digest, decode_mono
from multirun_analysis.labels.evidence import Utterance


@dataclass(frozen=True)
class Listening:
    """Facts from the recordings, by utterance id.

    seconds: lengths from headers. same: utterances with identical samples. missing: number of unreadable recordings.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    same: dict[str, list[Utterance]] = field(default_factory=dict)
    missing: int = 0


def listen(utterances: Sequence[Utterance]) -> Listening:
    """Read every recording's header, and compare the decoded samples of those with equal length.

    Decoded samples are independent of the container: a wav equals the flac made from it.
    """
    infos: dict[str, AudioInfo] = {}
    for utterance in utterances:
        try:
            if utterance.audio is not None:
                infos[utterance.id] = audio_info(utterance.audio)
        except AudioError:
            continue
    heard = [utterance for utterance in utterances if utterance.id in infos]
    alike = _groups((_format(infos[utterance.id]), utterance) for utterance in heard)
    equal = _groups((_digest(utterance), utterance) for group in alike for utterance in group)
    return Listening(
        seconds={name: info.seconds for name, info in infos.items()},
        same={one.id: [other for other in group if other is not one] for group in equal for one in group},
        missing=len(utterances) - len(heard),
    )


def other_texts(same: Mapping[str, Sequence[Utterance]], texts: Mapping[str, str]) -> dict[str, Utterance]:
    """For each utterance with the same audio as one with another text, the first such other one.

    ``texts`` are compared, by id.
    """
    found = {}
    for name, others in same.items():
        different = [other for other in others if texts[other.id] != texts[name]]
        if different:
            found[name] = different[0]
    return found


def _format(info: AudioInfo) -> tuple[int, int]:
    return info.num_samples_16k, info.sample_rate


def _digest(utterance: Utterance) -> str:
    assert utterance.audio is not None
    try:
        return content_digest(*decode_mono(utterance.audio))
    except AudioError:
        return utterance.id  # damaged after its header: equal to no other


def _groups(keyed: Iterable[tuple[Hashable, Utterance]]) -> Iterator[list[Utterance]]:
    """Groups of several utterances with equal keys."""
    groups: dict[Hashable, list[Utterance]] = defaultdict(list)
    for key, utterance in keyed:
        groups[key].append(utterance)
    yield from (group for group in groups.values() if len(group) > 1)
