"""The command line in this process: the same parser, commands and exit codes, without importing torch for each."""

from __future__ import annotations

import subprocess

from typer.testing import CliRunner

from harness.cli.app import app


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`harness ARGUMENTS` as test_cli_commands.run returns it."""
    result = CliRunner().invoke(app, list(arguments), env={"NO_COLOR": "1", "COLUMNS": "200", **environment})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return subprocess.CompletedProcess(list(arguments), result.exit_code, result.stdout, result.stderr)
