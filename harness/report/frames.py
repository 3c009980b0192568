"""The frames that reports are made of, out of harness.results.load()'s: which rows belong together, which is newest.

Every function takes rows and returns rows; nothing here draws, writes or runs.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import pandas

from harness.errors import InputError, unknown_name

# What makes two records two measurements of the same thing.
CONFIGURATION = ["model", "variant", "kernels", "board", "engine"]

# Rows that differ in one of these must not share a chart of latency or bytes: see harness.results.comparability.
TERMS = ["latency.clock", "latency.unit", "latency.model_version", "fingerprint.compiler"]

# ... nor, in one of these, a chart of accuracy.
DATA = ["accuracy.dataset", "accuracy.split", "accuracy.samples", "accuracy.metric"]

FLASH = ["weights", "kernels", "platform"]
RAM = ["activations", "platform", "stack"]


def select(
    frame: pandas.DataFrame, *, models: Sequence[str] = (), boards: Sequence[str] = (), variants: Sequence[str] = ()
) -> pandas.DataFrame:
    """The rows of these models, boards and variants (none named: of all). InputError for one that no row has."""
    for column, wanted in (("model", models), ("board", boards), ("variant", variants)):
        for name in wanted:
            if not frame.empty and name not in set(frame[column]):
                raise unknown_name(f"{column} among the results", name, set(frame[column]))
        if wanted:
            frame = frame[frame[column].isin(list(wanted))]
    return frame


def latest(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The newest row of each configuration, ordered by configuration; `runs` says of how many."""
    if frame.empty:
        return frame.assign(runs=pandas.Series(dtype="Int64"))
    counts = frame.groupby(CONFIGURATION, dropna=False)["id"].transform("size").astype("Int64")
    newest = frame.assign(runs=counts).drop_duplicates(CONFIGURATION, keep="last")
    return newest.sort_values(CONFIGURATION, kind="stable").reset_index(drop=True)


def groups(frame: pandas.DataFrame, columns: list[str]) -> Iterator[tuple[dict[str, Any], pandas.DataFrame]]:
    """The rows that agree in `columns`, with the values that they agree in; <NA> agrees with <NA>."""
    for values, rows in frame.groupby(columns, dropna=False, sort=True):
        named: dict[str, Any] = dict(zip(columns, _tuple(values), strict=True))
        yield {name: None if pandas.isna(value) else value for name, value in named.items()}, rows


def _tuple(values: Hashable) -> tuple[Any, ...]:
    return values if isinstance(values, tuple) else (values,)


def label(row: Any, *, among: pandas.DataFrame) -> str:
    """What tells this row from the others that it is shown with: its variant and board, and what else differs."""
    parts = [str(row["variant"]), str(row["board"])]
    if among["kernels"].nunique() > 1:
        parts.append(str(row["kernels"]))
    if among.groupby(["variant", "kernels", "board"])["engine"].nunique().max() > 1:
        parts.append(str(row["engine"]))
    return " · ".join(parts)


def layers(frame: pandas.DataFrame) -> pandas.DataFrame:
    """One row for each layer of each record: the record's id and configuration, then the layer's figures.

    ticks are in latency.unit; macs, weight_bytes and activation_bytes as in the record.
    """
    rows = [
        {
            "id": record["id"],
            **{name: record[name] for name in [*CONFIGURATION, "latency.unit"]},
            "index": index,
            **layer,
        }
        for record in frame.to_dict(orient="records")
        for index, layer in enumerate(record["layers"])
    ]
    columns = ["id", *CONFIGURATION, "latency.unit", "index", "name", "op", "form", "shape", "macs", "ticks"]
    columns += ["weight_bytes", "activation_bytes", "crc_device", "crc_reference"]
    table = pandas.DataFrame(rows, columns=columns)
    return table.astype(dict.fromkeys(("index", "macs", "ticks", "weight_bytes", "activation_bytes"), "Int64"))


def pareto(rows: pandas.DataFrame, smaller: Sequence[str], larger: Sequence[str] = ()) -> pandas.Series[bool]:
    """Which rows no other row beats: none is at least as good in every column and better in one.

    smaller, larger: columns of which less, or more, is better. A row with <NA> in one of them is never on the front.
    """
    columns = [*smaller, *larger]
    values = rows[columns].astype("float64").to_numpy().copy()
    values[:, len(smaller) :] *= -1
    front = []
    for index, row in enumerate(values):
        others = values[[other for other in range(len(values)) if other != index]]
        beaten = bool(((others <= row).all(axis=1) & (others < row).any(axis=1)).any())
        front.append(not beaten and not bool((row != row).any()))
    return pandas.Series(front, index=rows.index, dtype=bool)


def front(rows: pandas.DataFrame) -> pandas.Series[bool]:
    """Which rows no comparable row beats in bytes of the network image, latency and accuracy together."""
    best = pandas.Series(False, index=rows.index, dtype=bool)
    for _, group in groups(rows, [*TERMS, *DATA]):
        best[group.index] = pareto(group, ["footprint.network", "latency.median"], ["accuracy.device"])
    return best


def flat(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The frame with columns that a table of plain values can hold: the nested ones as JSON text."""
    import json

    def text(value: Any) -> str | None:
        if value is None or value is pandas.NA:
            return None
        return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False, sort_keys=True)

    nested = [name for name in frame.columns if frame[name].dtype == object]
    return frame.assign(**{name: frame[name].map(text).astype("string") for name in nested})


def require_rows(frame: pandas.DataFrame) -> None:
    """InputError when there is no result to write about."""
    if frame.empty:
        raise InputError("there are no results", hint="make one with `harness run`, or name the folder with --results")
