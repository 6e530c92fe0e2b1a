"""``python -m kimi_audio_ft.serve 'adapters={meetings: SIGNATURE}'``."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from kimi_audio_ft.cli import command
from kimi_audio_ft.config.checks import require_extra
from kimi_audio_ft.config.serve import KEY_VARIABLE
from kimi_audio_ft.runtime.libraries import quiet_libraries
from kimi_audio_ft.serve.listening import address_of, bound
from kimi_audio_ft.store.usage import using
from kimi_audio_ft.text import printable

if TYPE_CHECKING:
    from kimi_audio_ft.config.serve import ServeConfig

_PACKAGES = ("fastapi", "uvicorn", "python-multipart", "httpx")


@command("serve")
def main(config: ServeConfig) -> None:
    """Answer requests until Ctrl-C or SIGTERM; those that are at work are answered first."""
    require_extra("serve", _PACKAGES, "python -m kimi_audio_ft.serve")
    import uvicorn

    from kimi_audio_ft.serve.app import make_app
    from kimi_audio_ft.serve.batch_queue import BatchQueue, pieces_together
    from kimi_audio_ft.serve.service import Service

    quiet_libraries()
    with bound(config.host, config.port) as listening:
        address = address_of(listening)
        with using(Path(f"server {address}")):  # so that pruning leaves its adapters in the store
            service = Service.of(config, HydraConfig.get().overrides.task)
            settings = [model.decoding for model in service.models.values()]
            batch_size = service.config.decoding.batch_size
            together = pieces_together(service.base, batch_size, settings, service.word_positions)
            with BatchQueue(service.decoder(), together) as queue:
                print(f"models: {', '.join(map(printable, service.models))}", flush=True)
                app = make_app(service, queue, os.environ.get(KEY_VARIABLE, ""))
                print(f"address: http://{address}/v1", flush=True)
                # uvicorn ends on either signal when all is answered, and then raises it again.
                signal.signal(signal.SIGTERM, signal.default_int_handler)
                server = uvicorn.Server(uvicorn.Config(app, log_level="info", access_log=False))
                with suppress(KeyboardInterrupt):
                    server.run(sockets=[listening])


if __name__ == "__main__":
    main()
