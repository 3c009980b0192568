"""A paper's page: tables that read well as Markdown and on a terminal. Knows no paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from harness.files import write_whole


@dataclass(frozen=True)
class Table:
    """rows: one text per column. right: the columns with numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Claim:
    """One figure of a paper beside ours. Everything is text that says its unit; published: with its source."""

    quantity: str
    published: str
    ours: str
    denominator: str
    reason: str


@dataclass(frozen=True)
class Document:
    """A finished comparison. data: all figures. plots: names of the files that the page shows, with their words.

    files: what belongs beside the page, by name.
    """

    paper: str
    title: str
    introduction: str
    claims: tuple[Claim, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    data: dict[str, Any] = field(default_factory=dict)
    plots: tuple[tuple[str, str], ...] = ()
    files: dict[str, bytes] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All figures, and the claims as they are printed."""
        return {**self.data, "claims": [asdict(claim) for claim in self.claims]}

    def write(self, folder: Path) -> tuple[Path, ...]:
        """The page as Markdown and all that belongs beside it, each whole or not at all; returns the files."""
        contents = {**self.files, f"{self.paper}.md": markdown(self).encode()}
        for name, content in contents.items():
            write_whole(folder / name, content)
        return tuple(folder / name for name in contents)


def claims_table(claims: Sequence[Claim]) -> Table:
    """The claims as a table; the paper's figures are never shown without the word `published`."""
    return Table(
        "The paper's figures beside ours",
        ("quantity", "published", "ours", "denominator", "why they differ"),
        tuple((claim.quantity, claim.published, claim.ours, claim.denominator, claim.reason) for claim in claims),
    )


def markdown(document: Document) -> str:
    """The page as a file."""
    tables = [claims_table(document.claims), *document.tables]
    parts = [f"# {document.title}", document.introduction, *map(_markdown_table, tables)]
    parts += [f"![{words}]({name})" for name, words in document.plots]
    parts.append("## Notes\n\n" + "\n".join(f"- {note}" for note in document.notes))
    return "\n\n".join(parts) + "\n"


def terminal(document: Document) -> RenderableType:
    """The page on a terminal. A claim is a block of lines: five columns of sentences do not fit side by side."""
    parts: list[RenderableType] = [Text(document.title, style="bold"), Text(document.introduction)]
    for claim in document.claims:
        block = RichTable.grid(padding=(0, 2))
        block.add_column(style="dim", no_wrap=True)
        block.add_column()
        block.add_row("  published", Text(claim.published))
        block.add_row("  ours", Text(claim.ours, style="bold"))
        block.add_row("  denominator", Text(claim.denominator))
        block.add_row("  why they differ", Text(claim.reason))
        parts += [Text(), Text(claim.quantity, style="bold"), block]
    for table in document.tables:
        shown = RichTable(title=table.title, title_justify="left", title_style="bold", header_style="bold", box=None)
        for index, column in enumerate(table.columns):
            shown.add_column(column, justify="right" if index in table.right else "left", overflow="fold")
        for row in table.rows:
            shown.add_row(*(Text(cell) for cell in row))
        parts += [Text(), shown]
    parts += [Text(), *(Text(f"- {note}", style="dim") for note in document.notes)]
    return Group(*parts)


def _markdown_table(table: Table) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in table.rows]
    rule = ["--:" if index in table.right else "---" for index in range(len(table.columns))]
    lines = [f"| {' | '.join(row)} |" for row in (list(table.columns), rule, *cells)]
    return f"## {table.title}\n\n" + "\n".join(lines)
