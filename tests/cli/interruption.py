"""A program that interrupts the command line, for another process."""

from __future__ import annotations

INTERRUPTED_MAIN = """
import os, signal
# The parent process may have told its children to ignore the signal.
signal.signal(signal.SIGINT, signal.default_int_handler)
from transferkit.backends import Program
run, calls = Program.run, 0
def interrupted(self, pixels, layers):
    global calls
    calls += 1
    if calls == 3:
        os.kill(os.getpid(), signal.SIGINT)
    return run(self, pixels, layers)
Program.run = interrupted
from transferkit.cli import main
main()
"""
"""Runs the command line, and sends SIGINT when the network runs for the third time."""

TERMINATED_MAIN = INTERRUPTED_MAIN.replace("SIGINT)", "SIGTERM)")
"""The same with SIGTERM, as a process manager sends it."""
