"""Running the command line in tests."""

from __future__ import annotations

import os
import subprocess
import sys

from typer.testing import CliRunner, Result

from transferkit.cli import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run_process(
    *arguments: object, code: str = "from transferkit.cli import main; main()"
) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own, where signals and pipes are real."""
    command = [sys.executable, "-c", code, *map(os.fsencode, map(str, arguments))]
    return subprocess.run(command, capture_output=True, timeout=120, check=False)


def done(*arguments: object) -> str:
    """What a command prints that must go well, and say nothing on standard error."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return str(result.stdout)


def failed(*arguments: object) -> str:
    """The one line in which a command says why it fails."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.output
    line, *others = result.stderr.splitlines()
    assert others == []
    assert line.startswith("error: ")
    return str(line)
