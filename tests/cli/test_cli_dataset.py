"""``transferkit dataset``."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import error_of, output_of, run, usage_error_of
from published_archives import as_published, cats_files, pets_files, tar_gz, tree, zipped

from transferkit.datasets import cats_dogs, oxford_pets


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the options with local archives of the pets."""
    monkeypatch.setenv("TRANSFERKIT_OFFLINE", "1")
    options, rows = [], []
    for row, files in zip(oxford_pets.ARCHIVES, pets_files(), strict=True):
        content = tar_gz(files)
        (tmp_path / row.file).write_bytes(content)
        rows.append(as_published(row, content))
        options += ["--archive", str(tmp_path / row.file)]
    monkeypatch.setattr(oxford_pets, "ARCHIVES", tuple(rows))
    return options


@pytest.fixture
def cats(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the archive of the cats into the cache folder, and return its path."""
    monkeypatch.setenv("TRANSFERKIT_OFFLINE", "1")
    content = zipped(cats_files())
    (row,) = cats_dogs.ARCHIVES
    cache_folder.mkdir()
    (cache_folder / row.file).write_bytes(content)
    monkeypatch.setattr(cats_dogs, "ARCHIVES", (as_published(row, content),))
    return cache_folder / row.file


def test_pets_are_unpacked_and_counted(tmp_path: Path, pets: list[str]) -> None:
    folder = tmp_path / "pets"
    expected = (
        f"{folder / 'train'}: 20 images of 4 classes\n{folder / 'test'}: 12 images of 4 classes\n"
    )
    assert output_of("dataset", "oxford-iiit-pet", "-o", folder, *pets, "-q") == expected
    # Again: nothing is unpacked, and no archive is needed.
    assert output_of("dataset", "oxford-iiit-pet", "-o", folder) == expected
    species = tmp_path / "species"
    options = ("-o", species, "--target", "species", *pets, "-q")
    assert f"{species / 'test'}: 12 images of 2 classes" in output_of(
        "dataset", "oxford-iiit-pet", *options
    )
    assert "train/dog/pug_1.jpg" in tree(species)


def test_files_that_do_not_decode_are_printed(tmp_path: Path, cats: Path) -> None:
    folder = tmp_path / "cats"
    result = run("dataset", "cats-vs-dogs", "-o", folder, "-q", "--seed", 3)
    assert result.exit_code == 0
    assert "2 skipped:" in result.stderr
    assert "PetImages/Cat/666.jpg: the file is empty" in result.stderr
    assert len(tree(folder)) == 41
    assert "has cats-vs-dogs with random_state 3" in error_of(
        "dataset", "cats-vs-dogs", "-o", folder
    )
    # The archive is in the cache.
    assert "kagglecatsanddogs_5340.zip" in output_of("cache", "list")
    assert output_of("cache", "clear", "--yes") == f"{cats.parent}: 1 file removed\n"
    assert not cats.exists()
    assert len(tree(folder)) == 41


def test_invalid_usage_is_reported(tmp_path: Path) -> None:
    assert "unknown data set 'oxford-pets'; did you mean 'oxford-iiit-pet'?" in error_of(
        "dataset", "oxford-pets", "-o", tmp_path
    )
    assert "expected 'breed' or 'species'" in error_of(
        "dataset", "oxford-iiit-pet", "-o", tmp_path, "--target", "colour"
    )
    assert "--seed cannot be used" in usage_error_of(
        "dataset", "oxford-iiit-pet", "-o", tmp_path, "--seed", 1
    )
    assert "leave --target out" in usage_error_of(
        "dataset", "cats-vs-dogs", "-o", tmp_path, "--target", "species"
    )
    assert "Missing option '--output'" in usage_error_of("dataset", "cats-vs-dogs")


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path, cats: Path) -> None:
    assert f"{cats} is not a folder" in error_of("dataset", "cats-vs-dogs", "-o", cats / "folder")
    (tmp_path / "notes.txt").write_text("mine")
    assert "the folder is not empty" in error_of("dataset", "cats-vs-dogs", "-o", tmp_path)
