"""A result as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.results.record import Mismatch, Result

if TYPE_CHECKING:
    from harness.report import tables


def result(record: Result) -> RenderableType:
    """Everything a reader wants of one run: headline, layers, footprint."""
    parts: list[RenderableType] = [_headline(record), _layers(record)]
    if record.footprint is not None:
        parts.append(_footprint(record))
    parts.append(Text(f"id {record.id}   (harness show {record.id.rpartition('-')[2]})", style="dim"))
    return Group(*parts)


def _headline(record: Result) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    emulator = record.fingerprint.emulator_version
    where = f"{record.board} ({record.engine}{f', {emulator}' if emulator else ''})"
    table.add_row("network", f"{record.model}, variant {record.variant}, kernels {record.kernels}")
    table.add_row("board", where)
    table.add_row("latency", _latency(record))
    accuracy = record.accuracy
    shares = [
        f"{name} {value:.2%}"
        for name, value in (("device", accuracy.device), ("reference", accuracy.host), ("fp32", accuracy.fp32))
        if value is not None
    ]
    judged = ", ".join(shares) or ("none: the weights are random" if record.weights == "random" else "none")
    table.add_row("accuracy", f"{judged}  ({accuracy.samples:,} {accuracy.split} samples of {accuracy.dataset})")
    table.add_row("checked", _verdict(record))
    if record.footprint is not None:
        table.add_row(
            "network image",
            f"{record.footprint.network:,} B  (weights + kernels + activations)"
            + ("; leaner forms, for the board's memory" if record.forms == "leaner" else ""),
        )
    return table


def _latency(record: Result) -> str:
    latency = record.latency
    spread = "" if latency.min == latency.max else f"  ({latency.min:,}..{latency.max:,})"
    text = f"{latency.median:,.0f} {latency.unit}{spread}, {latency.repeats} repeats"
    if latency.us is not None:
        text = f"{latency.us:,.1f} us = {text}"
    if latency.clock == "instructions":
        text += "; instructions are counted, not timed"
    elif latency.clock == "modelled":
        band = "uncalibrated" if latency.error_band is None else f"+-{latency.error_band:.0%}"
        text += f"; modelled, {band}"
    return text


def _verdict(record: Result) -> Text:
    if isinstance(record.bit_exact, Mismatch):
        wrong = record.bit_exact
        return Text(
            f"MISMATCH first in {wrong.first_layer}: expected {wrong.expected}, got {wrong.got}", style="bold red"
        )
    if record.bit_exact:
        return Text(
            f"bit-exact: every layer of every sample equals the reference ({len(record.layers)} layers)", "green"
        )
    return Text(f"float: same classes, largest error of an output {record.max_abs_error:.2g}", style="green")


def _layers(record: Result) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 1), title_justify="left")
    unit = {"instructions": "instr."}.get(record.latency.unit, record.latency.unit)
    timed = any(layer.ticks is not None for layer in record.layers)
    formed = any(layer.form not in (None, "default") for layer in record.layers)
    for column in ("layer", "operator", *(("form",) if formed else ()), "output"):
        table.add_column(column, no_wrap=True)
    for column in ("MAC", *((unit, "/MAC") if timed else ()), "weights B", "buffers B"):
        table.add_column(column, justify="right", no_wrap=True)
    for layer in record.layers:
        times = []
        if timed:
            times.append(f"{layer.ticks:,}" if layer.ticks is not None else "-")
            times.append(f"{layer.ticks / layer.macs:.2f}" if layer.ticks is not None and layer.macs else "-")
        table.add_row(
            layer.name,
            _short(layer.op),
            *((layer.form or "-",) if formed else ()),
            "x".join(map(str, layer.shape)),
            f"{layer.macs:,}",
            *times,
            f"{layer.weight_bytes:,}",
            f"{layer.activation_bytes:,}",
        )
    return table


def _short(label: str) -> str:
    """An operator's label in the words people use, short enough for a narrow terminal."""
    for long, short in (("conv2d", "conv"), ("linear", "fc"), ("max_pool2d", "max"), ("avg_pool2d", "avg")):
        label = label.replace(long, short)
    return label


def _footprint(record: Result) -> Table:
    assert record.footprint is not None
    flash, ram = record.footprint.flash, record.footprint.ram
    table = Table(box=None, header_style="bold", padding=(0, 1))
    table.add_column("bytes")
    for column in ("total", "weights", "kernels", "activations", "platform", "stack"):
        table.add_column(column, justify="right")
    table.add_row(
        "flash", f"{flash.total:,}", f"{flash.weights:,}", f"{flash.kernels:,}", "", f"{flash.platform:,}", ""
    )
    used = record.footprint.stack_used
    table.add_row(
        "ram",
        f"{ram.total:,}",
        "",
        "",
        f"{ram.activations:,}",
        f"{ram.platform:,}",
        f"{ram.stack:,}" + (f" ({used:,} used)" if used is not None else ""),
    )
    return table


def table(content: tables.Table) -> Table:
    """A table of results for the terminal."""
    drawn = Table(box=None, header_style="bold", padding=(0, 1))
    for index, column in enumerate(content.columns):
        drawn.add_column(
            column.title, justify="right" if column.number else "left", overflow="fold", no_wrap=index == 0
        )
    styles = {"good": "green", "bad": "bold red", "": ""}
    for row in content.rows:
        drawn.add_row(*(Text(cell.text, style=styles[cell.tone]) for cell in row))
    return drawn
