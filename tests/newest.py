"""Prints this package's requirements with all extras and without ceilings, for `make newest`.

torch and torchaudio keep theirs: they must be of one CUDA version, or torchaudio refuses to be imported. SQLAlchemy and
alembic too: Optuna 2, the newest that hydra-optuna-sweeper takes, opens no storage with later ones.
"""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path

KEPT = ("torch ", "torchaudio ", "sqlalchemy ", "alembic ")


def newest(setup: Path) -> list[str]:
    """Requirements, one an entry, of the package and of its extra ``dev``."""
    config = ConfigParser()
    config.read(setup, encoding="utf-8")
    lines = [*config["options"]["install_requires"].splitlines(), *config["options.extras_require"]["dev"].splitlines()]
    return [line if line.startswith(KEPT) else re.sub(r",?\s*<[^,]*", "", line) for line in lines if line]


if __name__ == "__main__":
    print("\n".join(newest(Path(__file__).parents[1] / "setup.cfg")))
