"""``python -m kimi_audio_ft.engine TASK.json``: make one task of adapters, as a job of a cluster or by hand."""

import sys

from kimi_audio_ft.sweep.task import main

if __name__ == "__main__":
    sys.exit(main())
