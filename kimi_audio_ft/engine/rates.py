"""How fast a sweep goes: adapter steps and decoded utterances per second of the time given to each."""

from __future__ import annotations

# Fewer than this say nothing about the speed.
_ENOUGH_STEPS, _ENOUGH_UTTERANCES = 3, 3


class Rates:
    """Counts work against time; time in which adapters are trained and others decoded is shared between the two."""

    def __init__(self, now: float) -> None:
        self._last = now
        self.fitting_seconds = 0.0  # in which anything was being trained
        self._fit_time = self._decode_time = 0.0
        self._steps = self._utterances = 0

    def tick(self, now: float, fitting: int, stepping: int, decoding: int) -> None:
        """The time since the last tick went to so many units: in training, of these past their first step, decoding."""
        passed, self._last = now - self._last, now
        if fitting:
            self.fitting_seconds += passed
        if stepping or decoding:
            self._fit_time += passed * stepping / (stepping + decoding)
            self._decode_time += passed * decoding / (stepping + decoding)

    def add_steps(self, count: int) -> None:
        """One adapter made so many optimizer steps; the adapters of a pack count each."""
        self._steps += count

    def add_utterances(self, count: int) -> None:
        """So many transcripts were made."""
        self._utterances += count

    def left(self, steps: float, utterances: float) -> float | None:
        """Seconds that so much work takes; None while the speed of a kind that remains is not known."""
        if (steps and self._steps < _ENOUGH_STEPS) or (utterances and self._utterances < _ENOUGH_UTTERANCES):
            return None
        fit = steps * self._fit_time / self._steps if steps else 0.0
        return fit + (utterances * self._decode_time / self._utterances if utterances else 0.0)
