"""A profile as tables for the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.measurement import UNCOSTED_SHARE
from harness.profiling.profile import CAUSES, Cycles, Profile

# Functions below this share of the cycles are summed up in one row.
_SHOWN_SHARE = 0.002


def summary(profile: Profile) -> RenderableType:
    """Layers, then functions."""
    total = profile.cycles
    band = profile.error_band
    quality = "uncalibrated" if band is None else f"+-{band:.0%}"
    head = [
        f"{profile.network} on {profile.board} at {profile.clock_hz / 1e6:g} MHz: {total.total:,} cycles = "
        f"{total.total / profile.clock_hz * 1e6:,.1f} us, {total.instructions:,} instructions",
        f"modelled by {profile.model.version}, {quality}; peak {profile.peak:g} MAC per cycle",
        *(f"note: {note}" for note in profile.notes),
    ]
    if profile.coverage.share > UNCOSTED_SHARE:
        head.append(
            f"warning: {profile.coverage.share:.1%} of the instructions have no cost: they count one cycle each"
        )
    layers = _table("layer", "MAC/cycle", "of peak")
    for layer in profile.layers:
        rate = layer.macs / layer.cycles.total if layer.cycles.total else 0.0
        layers.add_row(
            f"{layer.name} {layer.form}",
            *_cells(layer.cycles, total),
            f"{rate:.2f}" if layer.macs else "-",
            f"{rate / profile.peak:.0%}" if layer.macs else "-",
        )
    functions = _table("function")
    rest = Cycles()
    for name, cycles in profile.functions.items():
        if cycles.total < _SHOWN_SHARE * total.total:
            rest += cycles
        else:
            functions.add_row(name, *_cells(cycles, total))
    if rest.total:
        functions.add_row("(others)", *_cells(rest, total))
    return Group(*(Text(line) for line in head), layers, functions)


def annotation(profile: Profile, name: str) -> str:
    """The disassembly of a layer, hottest function first: executions, cycles each, and what they waited for."""
    layer = profile.layer(name)
    lines = [f"{layer.name}, {layer.form}: {layer.cycles.total:,} cycles"]
    for function in layer.functions:
        lines += [
            "",
            f"{function.name}: {function.cycles.total:,} cycles",
            f"{'address':>10}  {'executed':>9} {'cycles':>9} {'each':>6}  {'stalls':<22} instruction",
        ]
        for line in function.lines:
            cycles = line.cycles
            each = f"{cycles.total / cycles.instructions:.2f}" if cycles.instructions else "-"
            stalls = " ".join(
                f"{cause} {getattr(cycles, cause):,}" for cause in CAUSES if cause != "issue" and getattr(cycles, cause)
            )
            lines.append(
                f"{line.instruction.address:#010x}  {cycles.instructions:>9,} {cycles.total:>9,} {each:>6}  "
                f"{stalls:<22} {line.instruction.text}"
            )
    return "\n".join(lines)


def _table(first: str, *more: str) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 1))
    table.add_column(first, no_wrap=True)
    for column in ("cycles", "share", "instr.", *CAUSES, *more):
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _cells(cycles: Cycles, total: Cycles) -> list[str]:
    share = cycles.total / total.total if total.total else 0.0
    causes = [f"{getattr(cycles, cause):,}" for cause in CAUSES]
    return [f"{cycles.total:,}", f"{share:.1%}", f"{cycles.instructions:,}", *causes]
