"""``python -m kimi_audio_ft.merge``: adapter + base to a checkpoint in the published layout, or to a plain Qwen2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_audio_ft.cli import command
from kimi_audio_ft.paths import expanded
from kimi_audio_ft.runtime.libraries import quiet_libraries
from kimi_audio_ft.store.usage import using

if TYPE_CHECKING:
    from kimi_audio_ft.config.commands import MergeConfig


@command("merge")
def main(config: MergeConfig) -> None:
    """Merge what Hydra composed; prints what was written and checked."""
    from kimi_audio_ft.merging.merge import merge

    quiet_libraries()
    with using(expanded(config.out)):
        merge(config)


if __name__ == "__main__":
    main()
