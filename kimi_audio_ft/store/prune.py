"""Which products and leftovers of the store may go, and their removal: never what a running sweep uses or makes."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import Timeout

from kimi_audio_ft.files import locked
from kimi_audio_ft.paths import expanded, store_root
from kimi_audio_ft.store.inventory import Product, bytes_in, products, seconds
from kimi_audio_ft.store.looks import FOLDER as LOOKS
from kimi_audio_ft.store.make import CACHES, CORRUPT, KINDS, META, lock
from kimi_audio_ft.store.usage import FOLDER, Name, Record, forget, gate, is_locked, records
from kimi_audio_ft.sweep_folder import trial_folders

# Products that go where no kind is named.
_UNLESS_NAMED = ("adapter", "transcript")
# A folder that is being removed; a killed removal leaves it, and nothing takes it for a product.
GONE = ".gone-"
_BEING_MADE = "being made now"
# What a transcript of the base alone has in the place of its adapter.
_BASE = "base"
# Any running sweep may use these.
_OF_ALL = ("features", "qwen2", "rungs")
# Leftovers that no running process can need.
_NOBODYS = ("set aside, for it was damaged", "half removed", "half written")
_UNKNOWN, _LOOK = "not known to this version", "look at it, and remove it by hand"
# The store's own files beside products and caches: uses, looks at test sets, digests of files, and the mark by which
# nodes know it.
_OWN = (FOLDER, LOOKS, "digests.sqlite*", ".store-*")


@dataclass(frozen=True)
class Rules:
    """Selection of what is removed: everything to which all given rules apply.

    older_than: seconds since the last use. larger_than: bytes of one product. keep_bytes: bytes that may stay in all;
    what was used longest ago goes first. study: folder of a sweep; what other sweeps with a folder use too stays.
    kinds: only products and leftovers of these; None: adapters and transcripts, and leftovers of every kind.
    leftovers: also what no product is part of (drafts, checkpoints, what was set aside), without products if it is
    the only rule.
    """

    older_than: float | None = None
    larger_than: int | None = None
    keep_bytes: int | None = None
    study: Path | None = None
    kinds: tuple[str, ...] | None = None
    leftovers: bool = False

    @property
    def about_products(self) -> bool:
        """Whether a rule says which products go."""
        return any(rule is not None for rule in (self.older_than, self.larger_than, self.keep_bytes, self.study))

    @property
    def about_leftovers(self) -> bool:
        """Whether leftovers go: when asked for, or with everything else of their age."""
        others = (self.larger_than, self.keep_bytes, self.study)
        return self.leftovers or (self.older_than is not None and all(rule is None for rule in others))


@dataclass(frozen=True)
class Item:
    """Something that may go. name: of the product that it is, or is part of. keep: why it stays, or empty."""

    path: Path
    name: Name
    what: str
    bytes: int
    keep: str = ""


def plan(rules: Rules) -> list[Item]:
    """Everything that the rules apply to now; what stays says why."""
    with gate():
        return _plan(rules)


def remove(rules: Rules) -> list[Item]:
    """Remove what the rules apply to; returns it, with what stayed and why."""
    with gate():
        items, gone = [], []
        for item in _plan(rules):
            renamed = None if item.keep else _rename(item)
            items.append(item if item.keep or renamed else replace(item, keep=_BEING_MADE))
            gone += [renamed] if renamed else []
        for record in records():
            if not record.is_running() and not any((store_root() / k / s).exists() for k, s in record.products):
                forget(record)
    for path in gone:  # out of sight, so no lock is needed
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    _remove_locks()
    return items


def _remove_locks() -> None:
    """Remove the files of locks that nobody holds; whoever waits for one makes it again."""
    for kind in (*KINDS, *CACHES):
        for path in (store_root() / kind).glob(".*.lock"):
            with suppress(OSError), locked(path, timeout=0):  # another user's; or held, which Timeout says
                path.unlink()


def _plan(rules: Rules) -> list[Item]:
    now, uses = time.time(), records()
    running = [record for record in uses if record.is_running()]
    keep = _protection(running)
    items = _chosen(rules, uses, keep, now) if rules.about_products else []
    if rules.about_leftovers:
        age = rules.older_than or 0.0
        of_kind = [item for item in _leftovers(keep) if rules.kinds is None or item.name[0] in rules.kinds]
        items += [item for item in of_kind if now - _changed(item.path) >= age]
    return items


def _rename(item: Item) -> Path | None:
    """Rename out of sight; None if it is being made now."""
    if item.what in _NOBODYS:
        return item.path
    gone = item.path.with_name(f"{GONE}{item.path.name.removeprefix('.')}.{time.time_ns()}")
    try:
        with lock(*item.name, timeout=0):
            item.path.replace(gone)
    except (Timeout, FileNotFoundError):
        return None
    return gone


def _protection(running: Sequence[Record]) -> Callable[..., str]:
    """A function that says why a product stays; empty if it may go."""
    used: dict[Name, str] = {name: str(record.sweep) for record in running for name in record.products}

    def keep(name: Name, adapter: str = "") -> str:
        for own in (name, ("adapter", adapter)):
            if own in used:
                return f"used by the running sweep {used[own]}"
        if running and (name[0] in _OF_ALL or adapter == _BASE):
            return f"the sweep {running[0].sweep} is running"
        return _BEING_MADE if is_locked(*name) else ""

    return keep


def _chosen(rules: Rules, uses: Sequence[Record], keep: Callable[..., str], now: float) -> list[Item]:
    everything = sorted(products(rules.kinds or _UNLESS_NAMED), key=lambda product: seconds(product.last_used))
    own = _names_of_study(rules.study, uses) if rules.study is not None else None

    def applies(product: Product) -> bool:
        used = own is None or bool({product.name, ("adapter", product.adapter)} & own)
        old = rules.older_than is None or now - seconds(product.last_used) >= rules.older_than
        return used and old and (rules.larger_than is None or product.bytes > rules.larger_than)

    items = [Item(Path(p.path), p.name, p.made_by, p.bytes, keep(p.name, p.adapter)) for p in everything if applies(p)]
    if rules.keep_bytes is None:
        return items
    excess, taken = sum(product.bytes for product in everything) - rules.keep_bytes, []
    for item in items:
        if excess > 0:
            taken.append(item)
            excess -= 0 if item.keep else item.bytes
    return taken


def _names_of_study(study: Path, uses: Sequence[Record]) -> set[Name]:
    """Products that only this sweep used: by its record, and by the scores in its folder."""
    study = expanded(study).absolute()
    own: set[Name] = set(_names_in_scores(study))
    others: set[Name] = set()
    for record in uses:
        if record.sweep == study or record.sweep.resolve() == study.resolve():
            own |= set(record.products)
        elif record.sweep.is_dir():
            others |= set(record.products)
    return own - others


def _names_in_scores(study: Path) -> Iterator[Name]:
    for trial in trial_folders(study) if study.is_dir() else ():
        with suppress(OSError, ValueError, AttributeError):
            scores: Mapping[str, object] = json.loads((trial / "scores.json").read_text(encoding="utf-8"))
            yield "adapter", str(scores.get("signature"))
            names = scores.get("transcript_signatures")
            yield from (("transcript", str(name)) for name in (names if isinstance(names, list) else []))


def _leftovers(keep: Callable[..., str]) -> Iterator[Item]:
    """Entries of the store that are neither products nor the store's own; what is not known is only named."""
    for path in sorted(store_root().glob("*/*")):
        found = _leftover(path.parent.name, path) if path.parent.name in (*KINDS, *CACHES, FOLDER) else None
        if found is not None and path.exists():
            what, signature = found
            name = (path.parent.name, signature)
            why = {_UNKNOWN: _LOOK}.get(what) or ("" if what in _NOBODYS else keep(name))
            yield Item(path, name, what, bytes_in(path), why)
    for path in sorted(store_root().glob("*")):
        if not any(path.match(known) for known in (*KINDS, *CACHES, *_OWN)):
            yield Item(path, ("", path.name), _UNKNOWN, bytes_in(path), _LOOK)


def _leftover(kind: str, path: Path) -> tuple[str, str] | None:
    """Kind of an entry, in words, and the signature that it belongs to; None for products and what is in use."""
    name = path.name
    if name.endswith(".lock") or ((path / META).is_file() and not name.startswith(".")):
        return None
    if kind == FOLDER:
        return (_NOBODYS[2], name) if name.endswith(".draft") else None
    if kind in CACHES:
        signature = name.removeprefix(GONE).removeprefix(".").split(".")[0]
        return (f"cached {CACHES[kind]}", signature) if path.is_file() else (_UNKNOWN, name)
    if name.startswith(CORRUPT):
        return _NOBODYS[0], name.removeprefix(CORRUPT).rpartition(".")[0]
    if name.startswith(GONE):
        return _NOBODYS[1], name.removeprefix(GONE).rpartition(".")[0]
    for ending, what in ((".draft", "half made"), (".work", "checkpoints of a training that was not finished")):
        if name.endswith(ending):
            return what, name.removeprefix(".").removesuffix(ending)
    return ("half made" if path.is_dir() and not name.startswith(".") else _UNKNOWN), name


def _changed(path: Path) -> float:
    """When a leftover was last changed, or last used (a cached value is only read)."""
    times = [0.0]
    for file in (path, *(path.rglob("*") if path.is_dir() else ())):
        with suppress(OSError):
            status = file.stat()
            times.append(max(status.st_mtime, status.st_atime) if path.is_file() else status.st_mtime)
    return max(times)
