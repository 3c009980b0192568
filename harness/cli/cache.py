"""`harness cache`: what this tool keeps on the disk, and how to get rid of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from harness.cli.options import JsonOption
from harness.cli.terminal import out, print_json
from harness.errors import InputError


class Action(StrEnum):
    """What to do with the cache."""

    show = "show"
    prune = "prune"


def command(
    action: Annotated[Action, typer.Argument(help="show what is kept, or prune it.")] = Action.show,
    older_than: Annotated[
        float, typer.Option("--older-than", min=0, help="Prune what was not used for so many days.")
    ] = 30,
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", help="Prune only this kind, may be repeated; downloads go when they are named."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be pruned.")] = False,
    json: JsonOption = False,
) -> None:
    """Show what is kept: built firmware, traced networks, downloads; or prune what was not used for a while.

    Everything in the cache is made, or fetched, again when it is needed. Results are never in it.
    """
    from harness import cache
    from harness.files import cache_dir
    from harness.report import words

    root = cache_dir()
    entries = cache.entries(root)
    if action is Action.prune:
        if unknown := set(kind or ()) - {entry.kind for entry in entries} - set(cache.REBUILT):
            raise InputError(f"the cache has no kind '{sorted(unknown)[0]}'", hint="harness cache lists the kinds")
        old = cache.unused(entries, days=older_than, kinds=kind or cache.REBUILT)
        freed = sum(entry.bytes for entry in old)
        kept = [] if dry_run else cache.remove(old)
        freed -= sum(entry.bytes for entry in kept)
        if json:
            print_json({"pruned": [str(entry.path) for entry in old if entry not in kept], "bytes": freed})
            return
        out.print(f"{'would free' if dry_run else 'freed'} {words.size(freed)}: {len(old) - len(kept)} entries")
        for entry in kept:
            out.print(f"in use, or not ours to remove: {entry.path}", style="yellow", markup=False, soft_wrap=True)
        return
    kinds = cache.by_kind(entries)
    if json:
        print_json({"folder": str(root), "kinds": kinds})
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for title in ("kind", "entries", "size", "last used", "what"):
        table.add_column(title, justify="right" if title in ("entries", "size") else "left")
    for name, told in kinds.items():
        what = cache.KINDS.get(name, "downloads")
        table.add_row(name, str(told["entries"]), words.size(told["bytes"]), str(told["last_used"])[:10], what)
    out.print(table)
    total = sum(entry.bytes for entry in entries)
    out.print(f"{words.size(total)} in {root}", style="dim", markup=False, soft_wrap=True)
