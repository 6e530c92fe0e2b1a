"""``python -m kimi_audio_ft.export_adapter``: an adapter as vLLM takes it for a LoRA request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_audio_ft.cli import command
from kimi_audio_ft.paths import expanded
from kimi_audio_ft.runtime.libraries import quiet_libraries
from kimi_audio_ft.store.usage import using

if TYPE_CHECKING:
    from kimi_audio_ft.config.commands import ExportAdapterConfig


@command("export_adapter")
def main(config: ExportAdapterConfig) -> None:
    """Export what Hydra composed; prints what was written."""
    from kimi_audio_ft.merging.export import export_adapter

    quiet_libraries()
    with using(expanded(config.out)):
        export_adapter(config)


if __name__ == "__main__":
    main()
