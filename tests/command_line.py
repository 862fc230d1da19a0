"""Functions that run the command line in tests."""

from __future__ import annotations

import os
import subprocess
import sys

from typer.testing import CliRunner, Result

from transferkit.cli.app import app


def run(*arguments: object, input: str | None = None) -> Result:  # noqa: A002
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=input)


def run_process(
    *arguments: object, code: str = "from transferkit.cli import main; main()"
) -> subprocess.CompletedProcess[bytes]:
    """Run a command in another process, with real signals and pipes."""
    command = [sys.executable, "-c", code, *map(os.fsencode, map(str, arguments))]
    return subprocess.run(command, capture_output=True, timeout=120, check=False)


def output_of(*arguments: object) -> str:
    """Return the output of a command that must succeed and print nothing on standard error."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return str(result.stdout)


def error_of(*arguments: object) -> str:
    """Return the error message of a command that must fail, which is one line."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.output
    line, *others = result.stderr.splitlines()
    assert others == []
    assert line.startswith("error: ")
    return str(line)


def usage_error_of(*arguments: object) -> str:
    """Return the message of a command that must fail because of its arguments."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.output
    # Click draws a box around the message and wraps it, in some versions.
    return " ".join(result.stderr.replace("│", " ").split())
