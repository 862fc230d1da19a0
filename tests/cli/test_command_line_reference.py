"""The generated reference of the command line, compared with the help texts."""

from __future__ import annotations

import re

import pytest
from command_line import output_of
from scripts import load_script

REFERENCE = load_script("command_line_reference").command_line_reference()
ROW = re.compile(r"^\| `([A-Za-z-]+)(?:[^|]|\\\|)*\| ([^|]+) \| [^|]*\|$", re.MULTILINE)
COMMANDS = re.findall(r"^  ([a-z-]+)  ", output_of("--help").split("Commands:")[1], re.MULTILINE)


def section(command: str) -> str:
    """Return the section of a command, without its heading."""
    _, start, rest = REFERENCE.partition(f"## `transferkit {command}`\n")
    assert start
    return rest.partition("\n## ")[0]


def test_commands_are_in_the_order_of_the_help_text() -> None:
    headings = re.findall(r"^## `transferkit (.*)`$", REFERENCE, re.MULTILINE)
    assert headings == [*COMMANDS, "cache list", "cache clear"]


@pytest.mark.parametrize("command", [*COMMANDS, "cache list", "cache clear"])
def test_every_argument_and_option_is_described(command: str) -> None:
    help_text = output_of(*command.split(), "--help")
    options = set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", help_text, re.MULTILINE)) - {"--help"}
    arguments = help_text.partition("Arguments:\n")[2].partition("\n\n")[0]
    names = set(re.findall(r"^  ([A-Z]+) ", arguments, re.MULTILINE))
    rows = ROW.findall(section(command))
    assert {name for name, _ in rows} == options | names
    # Without spaces, since the help text is wrapped at spaces and hyphens.
    help_text = "".join(help_text.split())
    for _, description in rows:
        plain = re.sub("`(transferkit [a-z-]+)`", r"'\1'", description)
        plain = re.sub("`(--[a-z-]+)`", r"\1", plain)
        assert "".join(plain.split()) in help_text


def test_defaults_and_usage_are_stated() -> None:
    predict = section("predict")
    assert "\ntransferkit predict [OPTIONS] PATH...\n" in predict
    row = "| `--output PATH`, `-o PATH` | The .npz file to write, or the folder of a store "
    assert row in section("extract")
    assert "| `--batch-size N` | Number of images per batch. | `32` |" in predict
    assert "| `--json` | Print JSON. |  |" in predict
    assert r"| `--channels N\|N:N` | " in section("visualize")
    assert "\ntransferkit visualize [OPTIONS] [CLASS...]\n" in section("visualize")


def test_level_of_headings_can_be_chosen() -> None:
    reference = load_script("command_line_reference").command_line_reference(level=3)
    assert reference == REFERENCE.replace("\n## ", "\n### ")
