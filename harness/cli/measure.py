"""`harness measure`: anybody's firmware that speaks the MLPerf Tiny protocol, without knowing its network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import BoardOption, JsonOption, QuietOption, ResultsOption
from harness.cli.terminal import err, out, reporter

if TYPE_CHECKING:
    from harness.results.firmware_record import FirmwareResult


def command(
    firmware: Annotated[Path, typer.Argument(help="An ELF file, or a raw image of the board's flash.")],
    board: BoardOption,
    engine: Annotated[str, typer.Option("--engine", "-e", help="auto, hardware, qemu, simulator or renode.")] = "auto",
    input: Annotated[
        Path | None, typer.Option("--input", help="A file whose bytes are loaded as they are; else zeros.")
    ] = None,
    input_bytes: Annotated[
        int | None,
        typer.Option("--input-bytes", min=1, help="Bytes of an input, where the model's name does not tell."),
    ] = None,
    inferences: Annotated[int, typer.Option("--inferences", "-n", min=1, help="Inferences that are timed.")] = 10,
    warmups: Annotated[int, typer.Option("--warmups", min=0, help="Inferences in front of them.")] = 1,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds that one inference may take before it counts as hung.")
    ] = 30.0,
    probe: Annotated[str | None, typer.Option("--probe", help="Unique id of the debug probe (harness doctor).")] = None,
    serial: Annotated[
        str | None,
        typer.Option("--serial", help="Serial port or pyserial URL of the board; found by itself if left out."),
    ] = None,
    results: ResultsOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Program a firmware, drive it as the MLPerf Tiny runner does, and record its time, size and results.

    It may be anybody's. Exit code 3, and a report on the core, when it faults, hangs or does not answer.
    """
    from harness.firmware_measurement import MeasureSpec, measure
    from harness.results import firmware_record, store

    folder = store.writable_results_dir(results)
    spec = MeasureSpec(
        firmware=firmware,
        board=board,
        engine=engine,
        input=input,
        input_bytes=input_bytes,
        inferences=inferences,
        warmups=warmups,
        timeout=timeout,
        probe=probe,
        serial=serial,
    )
    result = measure(spec, reporter(quiet=quiet or json))
    path = firmware_record.save(result, folder)
    if json:
        typer.echo(result.to_json(), nl=False)
        return
    out.print(_text(result), markup=False, highlight=False, soft_wrap=True)
    if not quiet:
        err.print(f"written to {path}", style="dim", markup=False, soft_wrap=True)


def _text(result: FirmwareResult) -> str:
    image, laps = result.image, result.laps
    ram = f", RAM {image.ram:,} B" if image.ram is not None else ""
    lines = [
        f"{image.name} on {result.board} ({result.engine}): {result.device}, model {result.model or 'not told'}",
        f"  flash {image.flash:,} B{ram}",
        f"  its own clock: {laps.per_inference_us:,.1f} us per inference, {_rate(laps.per_inference_us)}"
        f" ({laps.inferences} in {laps.total_us:,} us)",
    ]
    for counted in result.counted:
        line = f"  {counted.clock}: {counted.per_inference:,.0f} {counted.unit} per inference"
        if counted.us is not None and counted.hz is not None:
            band = f" +- {counted.error_band:.0%}" if counted.error_band is not None else ", uncalibrated"
            line += f", {counted.us:,.1f} us at {counted.hz / 1e6:g} MHz{band}, {_rate(counted.us)}"
        lines.append(line)
    shown = ", ".join(f"{score:g}" for score in result.results[:12])
    more = f", ... ({len(result.results)} in all)" if len(result.results) > 12 else ""
    lines.append(f"  results [{shown}{more}]")
    if result.unmodelled:
        lines.append(f"  peripherals that are not modelled, and read as zero: {', '.join(result.unmodelled)}")
    return "\n".join(lines)


def _rate(microseconds: float) -> str:
    return f"{1e6 / microseconds:,.3f} per second" if microseconds else "too fast for its clock"
