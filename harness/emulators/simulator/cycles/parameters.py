"""Parameter sets: the few numbers of a core that were fitted to silicon, with where they come from. JSON files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import json_file
from harness.emulators.simulator.cycles.tables import CoreTable
from harness.errors import InputError

_SCHEMA = 1


@dataclass(frozen=True)
class ParameterSet:
    """Values for one core. version: names them in records. error_band: half-width of the error, as a fraction, of
    integer code over what is told in `provenance`; None when they are not fitted. float_error_band: of floating-point
    code, None where that is not calibrated.
    """

    core: str
    version: str
    values: Mapping[str, float]
    error_band: float | None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    float_error_band: float | None = None

    def check(self, table: CoreTable) -> None:
        """InputError when they belong to another core, lack a value, or have one that is physically impossible."""
        if self.core != table.core:
            raise InputError(f"the cycle parameters are of a {self.core}, but the board has a {table.core}")
        known = {parameter.name: parameter for parameter in table.parameters}
        if set(self.values) != set(known):
            odd = sorted(set(self.values) ^ set(known))
            raise InputError(f"the cycle parameters of {self.core} lack or do not know {', '.join(odd)}")
        for name, value in self.values.items():
            if not known[name].low <= value <= known[name].high:
                raise InputError(
                    f"cycle parameter {name} is {value:g}", hint=f"{known[name].low:g} to {known[name].high:g}"
                )

    def to_json(self) -> str:
        """What load() reads."""
        plain = {
            "schema": _SCHEMA,
            "core": self.core,
            "version": self.version,
            "values": dict(self.values),
            "error_band": self.error_band,
            "float_error_band": self.float_error_band,
            "provenance": dict(self.provenance),
        }
        return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


def shipped(table: CoreTable) -> ParameterSet:
    """What comes with the package for a core: fitted where there was silicon to fit to, else the manual's defaults."""
    path = Path(__file__).parent / "fitted" / f"{table.core}.json"
    if not path.exists():
        return ParameterSet(table.core, "manual", table.defaults(), None)
    return load(path)


def load(path: Path) -> ParameterSet:
    """The parameter set in a file that `harness calibrate` wrote. InputError when it is none."""
    try:
        plain = json_file.load(path)
        if plain["schema"] != _SCHEMA:
            raise InputError(f"{path} is of schema {plain['schema']}, not {_SCHEMA}")
        bands = [None if plain[name] is None else float(plain[name]) for name in ("error_band", "float_error_band")]
        return ParameterSet(
            core=str(plain["core"]),
            version=str(plain["version"]),
            values={str(name): float(value) for name, value in plain["values"].items()},
            error_band=bands[0],
            provenance=dict(plain["provenance"]),
            float_error_band=bands[1],
        )
    except json_file.Unusable as error:
        raise InputError(f"cycle parameters {path} cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{path} holds no cycle parameters: {error}", hint="harness calibrate writes them") from error


def fingerprint(values: Mapping[str, float]) -> str:
    """A short name for fitted values, the same for the same ones."""
    text = json.dumps({name: round(value, 6) for name, value in sorted(values.items())})
    return hashlib.sha256(text.encode()).hexdigest()[:8]
