"""`harness calibrate`: fits the cycle model's parameters to runs that a real board has measured."""

from __future__ import annotations

import json as json_module
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import BoardOption, JsonOption, QuietOption
from harness.cli.terminal import out, reporter


def command(
    board: BoardOption,
    measured: Annotated[
        Path, typer.Option("--measured", help="Records of this board's silicon: one, or a JSON list of them.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Parameter file to write, for --cycle-parameters.")
    ] = Path("cycle-parameters.json"),
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fit the cycle model's free parameters to measured runs; report each one's error, left out of the fit too."""
    from rich.table import Table

    from harness import boards, engines, fingerprint
    from harness.emulators.simulator.cycles import cores, parameters
    from harness.files import file_sha256, write_whole
    from harness.profiling import calibration, silicon

    found = boards.load(board)
    engines.choose(found, "simulator", None)
    table = cores.table(found.core)
    shipped = parameters.shipped(table)
    said = reporter(quiet=quiet or json)
    records = silicon.read(measured, found)
    reruns = [silicon.rerun(record, said) for record in records]
    with said.stage("fitting"):
        result = calibration.fit(
            table,
            shipped.values,
            [measurement for one in reruns for measurement in one.measurements],
            silicon.predictor(reruns, found, shipped),
        )
    commit, _ = fingerprint.git()
    provenance = {
        "fitted": list(result.fitted),
        "to": [f"{record.board} {record.id}" for record in records],
        "file_sha256": file_sha256(measured),
        "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "harness_commit": commit,
        "rows": [
            {"name": row.name, "measured": row.measured, "predicted": row.predicted, "error": round(row.error, 4),
             "left_out_error": None if row.left_out is None else round(row.left_out, 4)}
            for row in result.rows
        ],
        "reasons": {one.name: one.reason for one in table.parameters},
    }  # fmt: skip
    version = parameters.fingerprint(result.values)
    fitted = parameters.ParameterSet(found.core, version, result.values, round(result.worst_error, 3), provenance)
    write_whole(output, fitted.to_json())
    if json:
        typer.echo(json_module.dumps(json_module.loads(fitted.to_json()), indent=2))
        return
    rows = Table(box=None, header_style="bold", padding=(0, 1))
    rows.add_column("run")
    for column in ("measured", "modelled", "error", "left out"):
        rows.add_column(column, justify="right")
    for row in result.rows:
        left_out = "-" if row.left_out is None else f"{row.left_out:+.1%}"
        rows.add_row(row.name, f"{row.measured:,.0f}", f"{row.predicted:,.0f}", f"{row.error:+.1%}", left_out)
    values = Table(box=None, header_style="bold", padding=(0, 1))
    for column in ("parameter", "shipped", "fitted", "what it is"):
        values.add_column(column)
    for one in table.parameters:
        now = f"{result.values[one.name]:g}" if one.name in result.fitted else "-"
        values.add_row(one.name, f"{shipped.values[one.name]:g}", now, one.reason)
    out.print(rows)
    out.print(values)
    out.print(f"median error {result.median_error:.1%}, worst {result.worst_error:.1%}; written to {output}")
