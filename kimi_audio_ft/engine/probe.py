"""How many adapters train together, when nobody has said: tried once for every machine and kind of training."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Sequence
from pathlib import Path

from kimi_audio_ft.engine.plan import pack_key
from kimi_audio_ft.files import write_json
from kimi_audio_ft.paths import store_root
from kimi_audio_ft.store.signature import digest_of
from kimi_audio_ft.trial import Trial

log = logging.getLogger(__name__)

# Where several processes train together none can try a size for all of them.
_WITHOUT_PROBE = 8


def probed_pack_size(trials: Sequence[Trial], dispatch: str, ranks: int) -> int:
    """The pack size that trains these adapters fastest on this machine; 1 when packing does not pay.

    What was found is kept in the store's ``probes`` folder: the next sweep does not try again.
    """
    if ranks > 1:
        return min(_WITHOUT_PROBE, len(trials))
    first = trials[0]
    widest = max(trial.config.lora.r for trial in trials)
    facts = [device_name(first), pack_key(first.config, same_data=False), dispatch, widest, len(trials)]
    known = store_root() / "probes" / f"{digest_of(facts)}.json"
    if known.is_file():
        size = int(json.loads(known.read_text(encoding="utf-8"))["pack_size"])
        log.info("pack size %d, as found before (%s)", size, known)
        return size
    from kimi_audio_ft.training.members import Member
    from kimi_audio_ft.training.probe import find_pack_size

    nowhere = Path()  # nothing is written
    members = [
        Member(trial.training_signature, trial.config.lora, trial.config.optim, trial.config.seed, nowhere, nowhere)
        for trial in trials
    ]
    size, measured = find_pack_size(first.base, members, first.data, first.config.trainer, dispatch)
    write_json(known, {"pack_size": size, "measured": measured, "of": facts})
    log.info("pack size %d, from a few steps of each (%s)", size, known)
    return size


def device_name(trial: Trial) -> str:
    """What computes."""
    import torch

    place = trial.base.device
    if place.type == "cuda":
        return torch.cuda.get_device_name(place)
    return f"{platform.node()} CPU, {torch.get_num_threads()} threads"
