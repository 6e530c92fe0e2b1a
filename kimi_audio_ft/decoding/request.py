"""Requests to decode an evaluation set under a setting."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kimi_audio_ft.config.train import DecodingConfig

# At or below this temperature the likeliest token is taken, as published.
GREEDY_BELOW = 1e-6


def is_greedy(setting: DecodingConfig) -> bool:
    """Whether decoding draws no random number."""
    return setting.text_temperature <= GREEDY_BELOW


@dataclass(frozen=True)
class DecodingRequest:
    """Decoding of an evaluation set under a setting; ``repeat`` counts the samplings with one seed, from 0."""

    setting: DecodingConfig
    seed: int
    repeat: int = 0

    def repeats(self) -> list[DecodingRequest]:
        """A request for each of the setting's repeats; a single one, the same for any seed, for a greedy setting."""
        if is_greedy(self.setting):
            return [DecodingRequest(replace(self.setting, text_temperature=0.0, text_top_k=0, repeats=1), 0)]
        return [replace(self, repeat=repeat) for repeat in range(self.setting.repeats)]
