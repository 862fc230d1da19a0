"""Ctrl-C while the command line is imported."""

from __future__ import annotations

from command_line import run_process


def test_an_interruption_during_the_imports_prints_no_traceback() -> None:
    code = """
import sys

class Interrupt:
    def find_spec(self, name, *rest):
        if name == "transferkit.cli.app":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
from transferkit.cli import main
main()
"""
    process = run_process("networks", code=code)
    assert process.returncode == 130
    assert process.stderr.replace(b"\r", b"") == b"interrupted\n"
