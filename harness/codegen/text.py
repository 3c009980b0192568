"""Numbers as C text: array initialisers and record initialisers, wrapped for readers."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from harness.ops.base import Array
from harness.ops.lowering import Reference, Value, float_literal

_WIDTH = 120


def array_text(values: Array, ctype: str) -> str:
    """The inside of an array's braces: exact for every type (floats with nine digits, words in hexadecimal)."""
    flat = values.ravel()
    if ctype == "float":
        items = [float_literal(value) for value in flat.tolist()]
    elif ctype == "uint32_t":
        items = [f"0x{value:08x}" for value in flat.tolist()]
    else:
        items = [_integer(value) for value in flat.tolist()]
    return textwrap.fill(", ".join(items), _WIDTH, initial_indent="    ", subsequent_indent="    ") + ","


def initialiser(fields: Mapping[str, Value], symbol: str, depth: int = 1) -> str:
    """Designated initialisers, one per line; records inside records are indented.

    symbol: the layer's stem, which `@` in texts stands for, too.
    """
    indent = "    " * depth
    lines = []
    for name, value in fields.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}.{name} = {{", initialiser(value, symbol, depth + 1), f"{indent}}},"]
        else:
            lines.append(f"{indent}.{name} = {_value(value, symbol)},")
    return "\n".join(lines)


def _value(value: bool | int | str | Reference | tuple[int, ...], symbol: str) -> str:
    if isinstance(value, Reference):
        return f"{symbol}_{value.constant}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "{" + ", ".join(_integer(int(item)) for item in value) + "}"
    return value.replace("@", symbol) if isinstance(value, str) else _integer(int(value))


def _integer(value: int) -> str:
    # -2147483648 is not a literal of C: it is the negation of a number that does not fit.
    return "INT32_MIN" if value == -(2**31) else str(value)
