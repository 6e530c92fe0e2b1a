"""The one family of errors that users see.

Every message names an option or file:line, the value found, the rule, and the remedy.
The commands print it without a traceback and exit with code 2 (see ``cli/app.py``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kimi_audio_ft.text import printable_lines


class UserError(ValueError):
    """Something the user gave cannot be used; the message says where, what, why and the remedy.

    Names and values in it may come from a file of strangers: what a terminal would obey is escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable_lines(message))

    def __reduce__(self) -> tuple[Any, ...]:
        """For other processes: the arguments that subclasses form their message from are not kept."""
        return _restored, (type(self), str(self), self.__dict__)


def _restored(kind: type[UserError], message: str, attributes: dict[str, Any]) -> UserError:
    error = kind.__new__(kind, message)
    error.__dict__.update(attributes)
    return error


class ConfigError(UserError):
    """An option has a value that breaks its rule."""

    def __init__(self, option: str, value: object, rule: str, remedy: str = "") -> None:
        super().__init__(f"{option}={value!r}: {rule}" + (f". {remedy}" if remedy else ""))


class Refused(SystemExit):
    """A user's error in a callback of Hydra's, which turns whatever else is raised there into a warning."""

    def __init__(self, error: UserError) -> None:
        super().__init__(2)
        self.error = error


class DataError(UserError):
    """A file, or one line of it, cannot be used."""

    def __init__(self, path: str | Path, problem: str, remedy: str = "", line: int | None = None) -> None:
        where = f"{path}:{line}" if line is not None else f"{path}"
        super().__init__(f"{where}: {problem}" + (f". {remedy}" if remedy else ""))
        self.path, self.line, self.problem, self.remedy = Path(path), line, problem, remedy


class ChangedError(DataError):
    """A file is no longer what a signature or digest in use names, so nothing may be stored under that."""

    def __init__(self, path: str | Path, during: str) -> None:
        problem = f"changed {during} (it, or a file that it names), and results are stored under what was there before"
        super().__init__(path, problem, "Run the command again")
