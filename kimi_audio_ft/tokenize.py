"""``python -m kimi_audio_ft.tokenize``: semantic codes into manifests, Whisper features into the store."""

from __future__ import annotations

import sys

# `python kimi_audio_ft/train.py` puts this folder before Python's own modules, which then import this file as theirs.
if __name__ == "tokenize":
    name = sys.argv[0].replace("\\", "/").rpartition("/")[2].removesuffix(".py")
    print(f"error: {sys.argv[0]}: is no script. Write python -m kimi_audio_ft.{name}", file=sys.stderr)
    sys.exit(2)

from kimi_audio_ft.cli import command
from kimi_audio_ft.config.commands import TokenizeConfig
from kimi_audio_ft.runtime.devices import limit_threads


@command("tokenize")
def main(config: TokenizeConfig) -> None:
    from kimi_audio_ft.features.tokenize import tokenize

    limit_threads(config.threads)
    tokenize(config)


if __name__ == "__main__":
    main()
