"""Output of file names: long ones, with markup or control characters, or not valid text."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import error_of, output_of, run_process
from samples import DEMO

import transferkit
from transferkit.cli.console import print_table

CAT = DEMO / "cat.jpg"
NAMES = ["a b.jpg", "[bold]c[/bold].jpg", "[/nothing].jpg", "ü 猫.jpg", "line\nbreak.jpg",
         "bell\x07\x1b[31m.jpg", "-dash.jpg", ":cat:.jpg", "50%.jpg"]  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not allow these names")
def test_unusual_file_names_are_printed_unchanged_or_escaped(
    tmp_path: Path, classifier_file: Path
) -> None:
    folder = tmp_path / "[red] photos"
    folder.mkdir()
    for name in NAMES:
        # The slash of a closing tag makes the name a folder and a file in it.
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(CAT, folder / name)
    expected = [str(path) for path in transferkit.list_images(folder)]
    content = json.loads(output_of("predict", classifier_file, folder, "--json"))
    assert [image["source"] for image in content["images"]] == expected
    text = output_of("predict", classifier_file, folder, "--csv")
    assert [row["source"] for row in csv.DictReader(io.StringIO(text, newline=""))] == expected
    table = output_of("predict", classifier_file, folder)
    assert "\x1b" not in table
    assert "\x07" not in table
    for name in NAMES:
        shown = name.replace("\n", "\\n").replace("\x07", "\\x07").replace("\x1b", "\\x1b")
        assert sum(f"/{shown} " in line for line in table.splitlines()) == 1, name
    output = tmp_path / "[red]out.npz"
    assert f"saved {output}:" in output_of("extract", folder, "-o", output)
    with np.load(output) as archive:
        assert archive["sources"].tolist() == expected


def test_long_names_are_wrapped_but_not_cut_in_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table(("image", "class"), [("folder/" + "0123456789" * 5, "Egyptian cat")])
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert all(len(line) <= 30 for line in lines)
    parts = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    assert "".join(parts) == "folder/" + "0123456789" * 5


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not allow these names")
@pytest.mark.parametrize("name", ["[bold]a.jpg", "line\nbreak.jpg", "[/red].jpg"])
def test_unusual_file_names_in_errors_are_escaped(tmp_path: Path, name: str) -> None:
    assert name.replace("\n", "\\n") in error_of("predict", tmp_path / name)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not allow these names")
@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ((), rb"\udcff\udcfe.jpg"),
        (("--json",), rb"\udcff\udcfe.jpg"),
        (("--csv",), b"\xff\xfe.jpg"),
    ],
)
def test_file_names_that_are_not_text_are_printed(
    tmp_path: Path, classifier_file: Path, options: tuple[str, ...], shown: bytes
) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.jpg")
    shutil.copy(CAT, path)
    Path(path + ".broken").write_text("not an image")
    result = run_process("predict", classifier_file, path, path + ".broken", *options)
    assert result.returncode == 0, result.stderr
    assert shown in result.stdout
    assert b"1 skipped:" in result.stderr
