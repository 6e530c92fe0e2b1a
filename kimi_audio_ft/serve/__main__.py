"""``python -m kimi_audio_ft.serve 'adapters={meetings: SIGNATURE}'``."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from kimi_audio_ft.cli import command
from kimi_audio_ft.config.checks import needs_package
from kimi_audio_ft.config.serve import KEY_VARIABLE
from kimi_audio_ft.runtime.libraries import quiet_libraries
from kimi_audio_ft.transcribe.recommended import completed, recommended_trial

if TYPE_CHECKING:
    from kimi_audio_ft.config.serve import ServeConfig


@command("serve", ("kimi_audio_ft.config.serve", "ServeConfig"))
def main(config: ServeConfig) -> None:
    """Answer requests until Ctrl-C or SIGTERM; those that are at work are answered first."""
    for package in ("fastapi", "uvicorn", "python-multipart"):
        needs_package(package, "serve", "host", config.host)
    import uvicorn

    from kimi_audio_ft.serve.app import make_app
    from kimi_audio_ft.serve.engine import Engine
    from kimi_audio_ft.serve.recogniser import Recogniser

    quiet_libraries()
    recommended = {}
    if config.sweep is not None:
        recommended["recommended"], trial = recommended_trial(config.sweep)
        config = completed(config, trial, HydraConfig.get().overrides.task)
    recogniser = Recogniser.of(config, recommended)
    with Engine(recogniser.base, config.decoding.batch_size) as engine:
        key = os.environ.get(KEY_VARIABLE, "")
        print(f"models: {', '.join(recogniser.models)}", flush=True)
        app = make_app(recogniser, engine, key)
        # uvicorn ends on either signal when all is answered, and then raises it again.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            uvicorn.run(app, host=config.host, port=config.port, log_level="info", access_log=False)


if __name__ == "__main__":
    main()
