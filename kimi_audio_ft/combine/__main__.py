"""``python -m kimi_audio_ft.combine``: what a sweep has made anyway, combined."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from kimi_audio_ft.cli import command
from kimi_audio_ft.runtime.devices import refuse_launchers
from kimi_audio_ft.runtime.libraries import quiet_libraries

if TYPE_CHECKING:
    from kimi_audio_ft.config.commands import CombineConfig


@command("combine")
def main(config: CombineConfig) -> None:
    """Combine what Hydra composed; prints a table and the folder of the combinations."""
    from kimi_audio_ft.combine.combinations import combine
    from multirun_analysis.messages import ENGLISH
    from multirun_analysis.terminal import print_combinations

    refuse_launchers()
    quiet_libraries()
    found = combine(config)
    print_combinations(found)
    if found.tested is not None and found.tested.looks > 1:
        print(ENGLISH.ranking_by(found.rank_by)("unseen.looks", n=found.tested.looks))
    print(f"texts and scores: {found.folder}")
    if found.folder is not None and (mean := found.folder / "mean" / "adapter").is_dir():
        print(f"evaluate, transcribe, merge and export_adapter take adapter={mean}")
    if config.out is None:
        print(f"leaderboard and report with them: python -m multirun_analysis {shlex.quote(config.sweep)}")


if __name__ == "__main__":
    main()
