"""``python -m kimi_audio_ft.store ls|verify|prune``: look into the store, check it, and make room in it."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import Timeout

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.paths import expanded, share_with_group, store_root
from kimi_audio_ft.store.inventory import Product, grows, has_hashes, listing, problem, products
from kimi_audio_ft.store.make import KINDS, lock, set_aside
from kimi_audio_ft.store.prune import Item, Rules, plan, remove
from kimi_audio_ft.store.usage import records
from kimi_audio_ft.text import printable

if TYPE_CHECKING:
    from rich.table import Table

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_BYTES = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
# Characters in a line of a table that goes into a file.
_WIDTH = 160


def main(arguments: list[str] | None = None) -> None:
    """Run a command; exits with 1 when ``verify`` found something wrong, and with 2 when it cannot be run."""
    options = _parser().parse_args(arguments)
    try:
        share_with_group()
        code = options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    if code:
        sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kimi_audio_ft.store", description="Look after the store.")
    actions = parser.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("ls", help="list finished products, what made them and which sweeps used them")
    listing.add_argument("--json", action="store_true", help="print a JSON list")
    listing.set_defaults(run=_ls)
    checking = actions.add_parser("verify", help="read every product and compare it with its hashes")
    checking.add_argument("--repair", action="store_true", help="set damaged products aside; a run makes them again")
    _add_kind(checking, "check only products of this kind (again for more)")
    checking.set_defaults(run=_verify)
    pruning = actions.add_parser(
        "prune",
        help="remove products by age, size or study",
        description="Remove what all given rules apply to. What a running sweep uses, or a process is making, stays. "
        "Without --yes nothing is removed and the list of what would go is printed.",
    )
    pruning.add_argument("--older-than", type=age_in_seconds, metavar="AGE", help="not used for so long: 30d, 12h, 2w")
    pruning.add_argument("--larger-than", type=size_in_bytes, metavar="SIZE", help="products larger than this: 500MB")
    pruning.add_argument(
        "--keep-bytes", type=size_in_bytes, metavar="SIZE", help="what was used longest ago, until the rest fits: 10GB"
    )
    pruning.add_argument("--study", type=Path, metavar="FOLDER", help="what only the sweep in this folder used")
    _add_kind(pruning, "remove only this kind (again for more); features only go when they are named")
    pruning.add_argument("--leftovers", action="store_true", help="drafts, checkpoints, caches, damaged products")
    sure = pruning.add_mutually_exclusive_group()
    sure.add_argument("--dry-run", action="store_true", help="only say what would go (the default)")
    sure.add_argument("--yes", action="store_true", help="remove it")
    pruning.set_defaults(run=_prune)
    return parser


def _add_kind(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--kind", action="append", choices=KINDS, help=text)


def age_in_seconds(text: str) -> float:
    return _quantity(text, _SECONDS, "30d")


def size_in_bytes(text: str) -> int:
    return int(_quantity(text, _BYTES, "10GB"))


def _quantity(text: str, units: Mapping[str, int], example: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(\w*)", text)
    if found is None or found[2] not in units:
        known = ", ".join(filter(None, units))
        raise argparse.ArgumentTypeError(f"{text!r} must be a number and one of {known}, as in {example}")
    return float(found[1]) * units[found[2]]


def _ls(options: argparse.Namespace) -> int:
    if options.json:
        json.dump(listing(), sys.stdout, ensure_ascii=False, indent=1)
        print()
        return 0
    from rich.filesize import decimal

    table = _table("kind", "signature", "created", "last used", "size", "made by")
    for row in products():
        times = _minute(row.created), _minute(row.last_used)
        _add(table, row.kind, row.signature, *times, decimal(row.bytes), row.made_by)
    _show(table)
    return 0


def _verify(options: argparse.Namespace) -> int:
    table, wrong, checked = _table("kind", "signature", "state"), 0, 0
    for product in products(tuple(options.kind or KINDS)):
        found = problem(product)
        if found is not None and Path(product.path).is_dir():  # else it was removed meanwhile
            wrong += 1
            state = f"CORRUPTED: {found}" + (f"; {_repair(product)}" if options.repair else "")
        elif product.kind == "features":
            state = "ok (index and sizes agree)"
        elif grows(product):
            state = "ok (it grows, and has no hashes)"
        else:
            state = "ok" if has_hashes(product) else "no hashes (made by an earlier version)"
        checked += 1
        _add(table, product.kind, product.signature, state)
    _show(table)
    remedy = "" if options.repair or not wrong else ". Set them aside with `verify --repair`; runs make them again"
    print(f"{checked} products checked, {wrong} corrupted{remedy}")
    return 1 if wrong else 0


def _repair(product: Product) -> str:
    try:
        with lock(product.kind, product.signature, timeout=0):
            aside = set_aside(product.kind, product.signature)
    except Timeout:
        return "left alone: a process is making it now"
    return f"set aside as {aside.name}" if aside else "removed meanwhile"


def _prune(options: argparse.Namespace) -> int:
    kinds = tuple(options.kind) if options.kind else None
    rules = Rules(options.older_than, options.larger_than, options.keep_bytes, options.study, kinds, options.leftovers)
    if not (rules.about_products or rules.about_leftovers):
        rule = "say what may go: --older-than, --larger-than, --keep-bytes, --study or --leftovers"
        raise UserError(f"prune: {rule}. --dry-run is the default, so trying costs nothing")
    if options.study is not None and not options.study.is_dir():
        folder = expanded(options.study).absolute()
        if all(record.sweep != folder for record in records()):
            raise UserError(
                f"--study {options.study}: no such folder, and no sweep in it is known. Name a sweep's folder"
            )
    items = remove(rules) if options.yes else plan(rules)
    _show_items(items, options.yes)
    return 0


def _show_items(items: Sequence[Item], removed: bool) -> None:
    from rich.filesize import decimal

    if items:
        table = _table("kind", "signature", "size", "what", "removed" if removed else "would go")
        for item in items:
            fate = f"no: {item.keep}" if item.keep else "yes"
            _add(table, *item.name, decimal(item.bytes), item.what, fate)
        _show(table)
    gone = [item for item in items if not item.keep]
    total = decimal(sum(item.bytes for item in gone))
    stay = f", {len(items) - len(gone)} stay" if len(gone) < len(items) else ""
    words = "removed" if removed else "would be removed"
    hint = ". Add --yes to remove them" if gone and not removed else ""
    entries = "entry" if len(gone) == 1 else "entries"
    print(f"{len(gone)} {entries} of {total} {words}{stay}{hint}")


def _minute(when: str) -> str:
    return when[:16].replace("T", " ")


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(title=f"Store {store_root()}")
    for column in columns:
        right = column == "size"
        table.add_column(column, justify="right" if right else "left", no_wrap=column in ("kind", "signature", "size"))
    return table


def _add(table: Table, *cells: str) -> None:
    from rich.text import Text

    table.add_row(*(Text(printable(cell)) for cell in cells))


def _show(table: Table) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else _WIDTH).print(table)


if __name__ == "__main__":
    main()
