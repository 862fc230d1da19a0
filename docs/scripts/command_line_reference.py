"""Print the reference of the command line as Markdown, generated from its help texts.

``python docs/scripts/command_line_reference.py``; the documentation calls
`command_line_reference` when it is built.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import typer

from transferkit.cli.app import app

__all__ = ["command_line_reference"]

_PROGRAM = "transferkit"
# A bar ends the cell of a table, even in code.
_ESCAPED_BAR = r"\|"
# What the help texts quote or name, and Markdown should set as code.
_CODE = re.compile(r"'(transferkit [a-z -]+)'|(?<![\w-])(--[A-Za-z-]+)")


def command_line_reference(level: int = 2) -> str:
    """Return a section for each command: description, usage, table of arguments and options.

    Parameters
    ----------
    level
        The level of the headings, from 1.

    Returns
    -------
    str
        Markdown. The commands come in the order in which ``transferkit --help`` lists them.
    """
    return "\n\n".join(_sections(_PROGRAM, typer.main.get_command(app), "#" * level)) + "\n"


# Commands and parameters are objects of click, which newer versions of Typer contain.
def _sections(name: str, command: Any, heading: str) -> Iterator[str]:
    subcommands = getattr(command, "commands", {})
    if name != _PROGRAM:
        yield f"{heading} `{name}`"
        yield _format(inspect.cleandoc(command.help))
    yield f"```text\n{' '.join([name, *_usage(command)])}\n```"
    if command.params:
        yield "\n".join(_table(command.params))
    for subname, subcommand in subcommands.items():
        yield from _sections(f"{name} {subname}", subcommand, heading)


def _usage(command: Any) -> Iterator[str]:
    yield "[OPTIONS]"
    if hasattr(command, "commands"):
        yield "COMMAND [ARGUMENTS]..."
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            yield _argument(parameter) if parameter.required else f"[{_argument(parameter)}]"


def _table(parameters: list[Any]) -> Iterator[str]:
    """Yield the rows of a table, arguments first."""
    yield "| argument or option | description | default |"
    yield "|---|---|---|"
    for parameter in sorted(parameters, key=lambda item: item.param_type_name):
        if parameter.param_type_name == "argument":
            name = f"`{_argument(parameter)}`"
        else:
            value = "" if parameter.is_flag else f" {parameter.metavar}"
            name = ", ".join(f"`{option}{value}`" for option in parameter.opts)
        cells = [name, _format(parameter.help), _default(parameter)]
        yield f"| {' | '.join(cell.replace('|', _ESCAPED_BAR) for cell in cells)} |"


def _argument(parameter: Any) -> str:
    return f"{parameter.metavar}..." if parameter.nargs == -1 else str(parameter.metavar)


def _default(parameter: Any) -> str:
    if isinstance(parameter.show_default, str):
        return _format(parameter.show_default)
    if parameter.required:
        return "required"
    is_set = parameter.default is not None and not getattr(parameter, "is_flag", False)
    return f"`{parameter.default}`" if is_set else ""


def _format(text: str) -> str:
    return _CODE.sub(lambda match: f"`{match[1] or match[2]}`", text)


if __name__ == "__main__":
    print(command_line_reference(), end="")  # noqa: T201
