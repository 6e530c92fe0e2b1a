"""``python -m kimi_audio_ft.sweep.confirm SWEEP``: what ``python -m multirun_analysis SWEEP --confirm`` starts."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.paths import expanded, share_with_group
from kimi_audio_ft.sweep.confirm.unseen import confirm
from kimi_audio_ft.sweep.plan import started_in
from kimi_audio_ft.sweep_folder import claim
from multirun_analysis.analysis import load_sweep
from multirun_analysis.statistics.recommendation import MARGIN


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, or 2 for a user's error."""
    parser = argparse.ArgumentParser(
        prog="python -m kimi_audio_ft.sweep.confirm",
        description="Decode what a sweep recommends, and the base, on data.test_manifest and data.guard_manifests.",
    )
    parser.add_argument("sweep_dir", type=Path, metavar="SWEEP_DIR")
    parser.add_argument("--manifest", metavar="FILE.tokens.jsonl", help="instead of the sweep's data.test_manifest")
    parser.add_argument("--margin", type=float, default=MARGIN)
    parser.add_argument("--rank-by")
    options = parser.parse_args(arguments)
    folder, manifest = options.sweep_dir.absolute(), options.manifest
    for number in (signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)  # a closed terminal ends it as Ctrl-C does
    try:
        analysis = load_sweep(folder, options.margin, options.rank_by)
        place = started_in(analysis.statistics.choice.folder)
        if manifest is not None and place != Path.cwd():
            manifest = str(expanded(manifest).absolute())
        with chdir(place), claim(folder):
            share_with_group()
            if not confirm(analysis, manifest):
                raise UserError(
                    f"{options.sweep_dir}: the sweep names no data.test_manifest and no data.guard_manifests. "
                    "Write --confirm FILE.tokens.jsonl"
                )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or options.sweep_dir}: cannot be written ({error.strerror})", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what is decoded is kept, and the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
