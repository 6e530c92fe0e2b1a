"""CSV to manifest: ``python -m kimi_audio_ft.prepare csv=my.csv out=prepared``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_audio_ft.cli import command

if TYPE_CHECKING:
    from kimi_audio_ft.config.commands import PrepareConfig


@command("prepare")
def main(config: PrepareConfig) -> None:
    from kimi_audio_ft.corpus.prepare import prepare, print_summary

    print_summary(prepare(config))


if __name__ == "__main__":
    main()
