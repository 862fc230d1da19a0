"""``transferkit cache``."""

from __future__ import annotations

import os
from pathlib import Path

from command_line import output_of, run


def test_files_are_listed_and_removed_after_confirmation(cache_folder: Path) -> None:
    assert output_of("cache", "list") == f"{cache_folder}: 0 files\n"
    cache_folder.mkdir()
    (cache_folder / "vgg16-397923af.pth").write_bytes(b"x" * 1_500_000)
    text = output_of("cache", "list")
    assert "vgg16-397923af.pth │ 1.5 MB" in text
    assert f"{cache_folder}: 1 file\n" in text
    result = run("cache", "clear", input="n\n")
    assert result.exit_code == 1
    assert f"Remove 1 file from {cache_folder}?" in result.stdout
    assert os.listdir(cache_folder) == ["vgg16-397923af.pth"]
    assert output_of("cache", "clear", "--yes") == f"{cache_folder}: 1 file removed\n"
    assert os.listdir(cache_folder) == []
