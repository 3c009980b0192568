"""The documentation's reference pages, made from the code they describe: a hook of MkDocs, so they are never stale.

Commands come from the command line's own parser, manifest keys and record keys from the models that check them.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any

from pydantic import BaseModel

PAGES = {
    "reference/commands.md": "commands",
    "reference/boards.md": "manifests",
    "reference/plans.md": "plans",
    "reference/record.md": "record",
}


def on_files(files: Any, config: Any) -> Any:
    """MkDocs calls this with the site's files: the reference pages are added to them."""
    from mkdocs.structure.files import File

    for path, name in PAGES.items():
        files.append(File.generated(config, path, content=globals()[name]()))
    return files


# ---- commands


def commands() -> str:
    """Every command with its arguments and options, as its own --help has them."""
    import typer.main

    from harness.cli.app import app

    group: Any = typer.main.get_command(app)
    lines = ["# Commands\n", "Made from the code. `harness COMMAND --help` says the same.\n"]
    for name, command in group.commands.items():
        lines.append(f"## harness {name}\n")
        lines.append(f"{inspect.cleandoc(command.help or '')}\n")
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        options = [one for one in command.params if one.param_type_name == "option" and one.name != "help"]
        if arguments:
            lines += ["| argument | what it is |", "|---|---|"]
            lines += [f"| `{one.metavar or one.name.upper()}` | {_cell(one.help)} |" for one in arguments]
            lines.append("")
        if options:
            lines += ["| option | default | what it does |", "|---|---|---|"]
            lines += [f"| {_spelling(one)} | {_default(one)} | {_cell(one.help)} |" for one in options]
            lines.append("")
    lines.append("## Exit codes\n")
    lines += ["| code | meaning |", "|---|---|", *_exit_codes(), "| 130 | interrupted |", ""]
    return "\n".join(lines)


def _spelling(option: Any) -> str:
    return ", ".join(f"`{name}`" for name in option.opts)


def _default(option: Any) -> str:
    value = option.default
    if option.is_flag or value is None or callable(value) or value in ((), []):
        return ""
    return f"`{value}`"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|").replace("<", "&lt;")


def _exit_codes() -> Iterator[str]:
    from harness import errors

    yield "| 0 | good |"
    kinds = (errors.GateError, errors.InputError, errors.DeviceError, errors.InternalError)
    for kind in sorted(kinds, key=lambda kind: kind.exit_code):
        yield f"| {kind.exit_code} | {_cell(inspect.getdoc(kind)).partition(': exit code')[0]} |"


# ---- models


def manifests() -> str:
    """The keys of a board manifest."""
    from harness import boards

    parts = [
        "# Board manifests\n\nA board is one JSON file, named after the board: those that ship are in `boards/`, and\n"
        "`--board` takes the path of one of your own. PlatformIO reads the same file. `harness boards --schema`\n"
        "prints its JSON schema; [Adding a board](../adding-a-board.md) writes one.\n"
    ]
    for model in _models(boards.Manifest):
        parts.append(f"\n## {model.__name__}\n\n{_prose(model)}\n\n{_keys(model)}")
    names = "\n".join(f"- `{name}`: {boards.load(name).name}" for name in boards.names())
    return "".join(parts) + f"\n## Boards that ship\n\n{names}\n"


def record() -> str:
    """The keys of a result record."""
    from harness.results.record import Result

    parts = [
        "# The result record\n\nOne JSON file for each run; `harness run --json` prints it. Keys keep their meaning.\n"
    ]
    for model in _models(Result):
        parts.append(f"\n## {model.__name__}\n\n{_prose(model)}\n\n{_keys(model)}")
    return "".join(parts)


def plans() -> str:
    """The options of a run, which plans and baselines are made of."""
    from harness.pipeline import RunSpec
    from harness.sweep import plan, specs

    lines = ["# Plans and specs\n", f"```toml\n{_example(plan)}\n```\n"]
    lines.append("Every option of a run can stand in a plan (one value, or a list) and in the specs of a baseline:\n")
    lines += ["| option | type | default |", "|---|---|---|"]
    for field in dataclasses.fields(RunSpec):
        kinds = " or ".join(sorted(kind.__name__.lower() for kind in specs.fields()[field.name]))
        default = "required" if field.default is dataclasses.MISSING else "" if field.default is None else field.default
        lines.append(f"| `{field.name}` | {kinds} | {f'`{default}`' if default != '' else ''} |")
    plurals = ", ".join(f"`{many}` for `{one}`" for many, one in plan.PLURALS.items())
    lines += ["", f"In plans, {plurals} may be written.", "", _prose(RunSpec), ""]
    return "\n".join(lines)


def _example(module: Any) -> str:
    """The indented lines of a module's documentation."""
    return inspect.cleandoc("\n".join(line for line in module.__doc__.splitlines() if line.startswith("    ")))


def _prose(kind: Any) -> str:
    text = inspect.getdoc(kind) or ""
    return text.replace("<", "&lt;").replace("*", "\\*")


def _models(root: type[BaseModel]) -> list[type[BaseModel]]:
    """The model and those that its fields hold, each once, in the order of the fields."""
    found = [root]
    for model in found:
        for field in model.model_fields.values():
            found += [kind for kind in _parts(field.annotation) if _is_model(kind) and kind not in found]
    return found


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _parts(annotation: Any) -> list[Any]:
    """All types that an annotation is made of."""
    members = [part for member in typing.get_args(annotation) for part in _parts(member)]
    return members or [annotation]


def _keys(model: type[BaseModel]) -> str:
    """A table of the model's keys."""
    lines = ["| key | type | needed |", "|---|---|---|"]
    for own_name, field in model.model_fields.items():
        name = field.alias or own_name
        needed = "yes" if field.is_required() else f"no: `{field.get_default(call_default_factory=True)}`"
        lines.append(f"| `{name}` | {_type(field.annotation)} | {needed} |")
    return "\n".join(lines) + "\n"


def _type(annotation: Any) -> str:
    """A type in words: text, whole number, list of text, one of several words."""
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(members[0])
    if origin in (typing.Union, UnionType):
        return " or ".join(dict.fromkeys(_type(member) for member in members))
    if origin is typing.Literal:
        return " or ".join(f"`{member}`" if isinstance(member, str) else str(member).lower() for member in members)
    if origin is tuple:
        return f"list of {_type(members[0])}"
    if origin is dict:
        return f"object of {_type(members[1])}"
    plain = {str: "text", int: "whole number", float: "number", bool: "true or false", NoneType: "null"}
    if annotation in plain:
        return plain[annotation]
    return f"[{annotation.__name__}](#{annotation.__name__.lower()})" if _is_model(annotation) else str(annotation)
