"""How templates are read, for every page; compiled ones are kept where Python keeps compiled modules.

Compiling takes longer than a small sweep's report.
"""

from __future__ import annotations

import marshal
import sys
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import version
from importlib.util import cache_from_source
from pathlib import Path

from jinja2 import BytecodeCache, Environment, FileSystemLoader, StrictUndefined
from jinja2.bccache import Bucket
from markupsafe import Markup

from kimi_audio_ft.files import written_aside

PAGE, STYLE = Path(__file__).resolve().parent / "templates", "report.css"
_RULES = ("autoescape", "trim_blocks", "lstrip_blocks", "optimized")


def templates_in(*folders: Path) -> Environment:
    """Templates of the folders, of which the first has the cache; texts that come from data are escaped."""
    return Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,  # compiles faster
        bytecode_cache=CompiledTemplates(folders[0]),
    )


def as_it_is(path: Path) -> Markup:
    """One of our own files, trusted."""
    return Markup(path.read_text(encoding="utf-8"))


class CompiledTemplates(BytecodeCache):
    """Templates of a folder, as code objects like those of modules, and not pickled as jinja2's own caches have them.

    As for modules, a folder that cannot be written keeps none, and PYTHONDONTWRITEBYTECODE and PYTHONPYCACHEPREFIX
    hold.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load_bytecode(self, bucket: Bucket) -> None:
        """Fill the bucket; it stays empty where nothing is kept of this text, or what is kept is damaged."""
        with suppress(OSError, EOFError, ValueError, TypeError):
            bucket.code = marshal.loads(self._file(bucket).read_bytes())

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep a compiled template."""
        if sys.dont_write_bytecode:
            return
        with suppress(OSError), written_aside(self._file(bucket)) as draft:
            draft.write_bytes(marshal.dumps(bucket.code))

    def _file(self, bucket: Bucket) -> Path:
        compiler = [version("jinja2"), *(getattr(bucket.environment, rule) for rule in _RULES)]
        name = sha256(repr([bucket.key, bucket.checksum, compiler]).encode()).hexdigest()[:16]
        return Path(cache_from_source(str(self._folder / f"{name}.j2")))
