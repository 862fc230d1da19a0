"""The command-line program: help, errors, warnings, signals, pipes."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import output_of, run, run_process, usage_error_of
from interruption import INTERRUPTED_MAIN
from PIL import Image
from samples import DEMO

import transferkit
from transferkit.cli import main

CAT = DEMO / "cat.jpg"
COMMANDS = (
    "demo", "inspect", "fit", "evaluate", "compare", "predict", "extract", "features",
    "show-layer", "visualize", "attack", "networks", "layers", "backends", "download", "dataset",
    "restore", "cache",
)  # fmt: skip


def output_of_main(*arguments: str) -> str:
    """Return the output of the program in this process, under its real name."""
    with contextlib.redirect_stdout(io.StringIO()) as output, pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    return output.getvalue()


def test_help_lists_all_commands_in_order_with_uncut_descriptions() -> None:
    _, commands = output_of("--help").split("Commands:\n")
    assert tuple(line.split()[0] for line in commands.splitlines()) == COMMANDS
    assert "..." not in commands


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_text(command: str) -> None:
    assert f"Usage: transferkit {command}" in output_of_main(command, "--help")


def test_version_is_printed() -> None:
    assert output_of("--version") == f"transferkit {transferkit.__version__}\n"


def test_invalid_usage_is_rejected() -> None:
    assert "explode" in usage_error_of("explode")
    assert "--output" in usage_error_of("fit", DEMO)


def test_warning_is_printed_in_one_line(cache_folder: Path) -> None:
    cache_folder.mkdir()
    path = cache_folder / "vgg16-397923af.pth"
    path.write_bytes(b"damaged")
    result = run("download", "vgg16")
    assert result.exit_code == 1
    first, second = result.stderr.splitlines()
    assert first.startswith(f"warning: {path} ")
    assert second.startswith("error: ")


def test_main_exits_with_the_exit_code_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    with pytest.raises(SystemExit) as caught:
        main(["layers", "mobilenetv2"])
    assert caught.value.code == 1
    assert "did you mean 'mobilenet_v2'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
def test_interrupted_command_leaves_no_files(tmp_path: Path) -> None:
    output = tmp_path / "c.safetensors"
    arguments = ("fit", DEMO / "train", "-o", output, "--batch-size", 4)
    result = run_process(*arguments, code=INTERRUPTED_MAIN)
    assert result.returncode == 130
    assert result.stderr == b"interrupted\n"
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other pipes")
@pytest.mark.parametrize("options", [["--json", "--top", "900"], ["--csv"], []])
def test_closed_pipe_is_not_an_error(options: list[str]) -> None:
    """As in ``transferkit predict ... | head -1``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "transferkit", "predict", str(CAT), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert errors == b""
    assert process.wait(120) in (0, 1, -signal.SIGPIPE)


def test_progress_bars_and_colors_are_for_terminals_only(tmp_path: Path) -> None:
    Image.open(CAT).save(tmp_path / "cat.png")
    result = run_process("predict", tmp_path / "cat.png")
    assert result.returncode == 0
    assert result.stderr == b""
    assert b"Egyptian cat" in result.stdout
    assert b"\x1b" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "parameter"),
    [
        (("predict", ""), "PATH"),
        (("predict", CAT, ""), "PATH"),
        (("fit", "", "-o", "c.safetensors"), "FOLDER"),
        (("fit", "photos", "-o", ""), "--output"),
        (("fit", "photos", "-o", "c.safetensors", "--test="), "--test"),
        (("evaluate", "c.safetensors", "photos", "--csv", ""), "--csv"),
        (("attack", CAT, "-o", ""), "--output"),
    ],
)
def test_empty_path_is_not_the_current_directory(
    arguments: tuple[str | Path, ...], parameter: str
) -> None:
    message = usage_error_of(*arguments)
    assert "the path is empty" in message
    assert parameter in message
