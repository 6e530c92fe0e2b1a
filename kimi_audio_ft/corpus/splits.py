"""Seeded splits by recording, independent of row order, and class balancing by a column."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from kimi_audio_ft.errors import ConfigError

TRAIN, EVAL, TEST = "train", "eval", "test"
SPLITS = (TRAIN, EVAL, TEST)
_SHUFFLES = 20


def split_by_group(groups: Sequence[str], eval_ratio: float, test_ratio: float, seed: int) -> list[str]:
    """Assigns a split to every segment, given its group; all segments of a group are in the same split.

    Greedy over shuffled groups: a held-out split takes every group that still fits its target number of segments, and
    one more if that brings it closer. The best of several shuffles is used.

    Args:
        eval_ratio: fraction of segments for ``eval``; 0 for no such split.
        test_ratio: likewise for ``test``.

    Raises:
        ConfigError: fewer groups than splits.
    """
    sizes = Counter(groups)
    wanted = [(name, ratio) for name, ratio in ((EVAL, eval_ratio), (TEST, test_ratio)) if ratio > 0]
    _check_enough_groups(sizes, wanted)
    remaining = sorted(sizes)
    split_of: dict[str, str] = {}
    for position, (name, ratio) in enumerate(wanted):
        # Leave one group each for the train split and the remaining held-out splits.
        may_take = len(remaining) - (len(wanted) - position)
        for group in _best_take(remaining, sizes, ratio * len(groups), may_take, seed):
            split_of[group] = name
        remaining = [group for group in remaining if group not in split_of]
    return [split_of.get(group, TRAIN) for group in groups]


def balance(values: Sequence[str], seed: int, mode: str = "downsample") -> list[int]:
    """Indices of the items to keep (some of them repeated) so that every value is equally frequent, in the given order.

    mode: ``downsample`` to the rarest value, or ``upsample`` to the most frequent.
    """
    if not values:
        return []
    positions: dict[str, list[int]] = {}
    for index in sorted(range(len(values)), key=lambda index: _rank(str(index), seed)):
        positions.setdefault(values[index], []).append(index)
    sizes = [len(of_value) for of_value in positions.values()]
    target = min(sizes) if mode == "downsample" else max(sizes)
    return sorted(of_value[turn % len(of_value)] for of_value in positions.values() for turn in range(target))


def _rank(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{key}".encode()).digest()


def _best_take(groups: Sequence[str], sizes: Counter[str], target: float, may_take: int, seed: int) -> list[str]:
    best: list[str] = []
    error = float("inf")
    for shuffle in range(_SHUFFLES):
        order = sorted(groups, key=lambda group: _rank(f"{shuffle}\n{group}", seed))
        taken = _take(order, sizes, target, may_take)
        distance = abs(sum(sizes[group] for group in taken) - target)
        if distance < error:
            best, error = taken, distance
        if error <= 0.5:  # as close as whole segments allow
            break
    return best


def _take(order: Sequence[str], sizes: Counter[str], target: float, may_take: int) -> list[str]:
    """Groups of ``order`` with a total size of about ``target``: at least one, at most ``may_take``."""
    taken: list[str] = []
    rest: list[str] = []
    total = 0
    for group in order:
        if len(taken) < may_take and total + sizes[group] <= target:
            taken.append(group)
            total += sizes[group]
        else:
            rest.append(group)
    if len(taken) < may_take:
        closest = min(rest, key=lambda group: abs(total + sizes[group] - target))
        if not taken or abs(total + sizes[closest] - target) < abs(total - target):
            taken.append(closest)
    return taken


def _check_enough_groups(sizes: Counter[str], wanted: list[tuple[str, float]]) -> None:
    if not wanted or len(sizes) > len(wanted):
        return
    name, ratio = wanted[-1]
    raise ConfigError(
        f"{name}_ratio",
        ratio,
        f"the {name} split or the train split would be empty: the rows left after cleaning come from {len(sizes)} "
        f"recording(s), and all segments of a recording fall in one split; {len(wanted) + 1} are needed",
        f"Add recordings, group by something finer (group_column, group_pattern), or set {name}_ratio=0",
    )
