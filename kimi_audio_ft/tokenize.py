"""``python -m kimi_audio_ft.tokenize``: semantic codes into manifests, Whisper features into the store."""

from __future__ import annotations

from kimi_audio_ft.cli import command
from kimi_audio_ft.config.commands import TokenizeConfig
from kimi_audio_ft.runtime.devices import limit_threads


@command("tokenize", ("kimi_audio_ft.config.commands", "TokenizeConfig"))
def main(config: TokenizeConfig) -> None:
    from kimi_audio_ft.features.tokenize import tokenize

    limit_threads(config.threads)
    tokenize(config)


if __name__ == "__main__":
    main()
