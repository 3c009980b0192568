"""The C functions that pass over a layer: a loop of a kernel's header, made for a kind; layers of one kind share it.

A header `stem`.h has a `stem`_run(pass, kind), which the compiler specialises, and the records `stem`_pass and
`stem`_kind.
"""

from __future__ import annotations

from collections.abc import Mapping

Kind = Mapping[str, int | bool]


def pass_name(stem: str, kind: Kind) -> str:
    """A name that tells kinds apart by all that they say."""
    return f"{stem}_pass_" + "_".join(map(_literal, kind.values()))


def pass_function(stem: str, name: str, kind: Kind) -> str:
    """The definition of the function called `name`."""
    fields = ", ".join(f".{field} = {_literal(value)}" for field, value in kind.items())
    return f"NN_SHARED void {name}(const {stem}_pass *pass)\n{{\n    {stem}_run(pass, ({stem}_kind){{{fields}}});\n}}"


def _literal(value: int | bool) -> str:
    return str(value).lower()
