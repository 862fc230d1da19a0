"""Files are moved, never lost, and come back."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from transferkit.errors import FileFormatError, OutputError, ParameterError, UnknownNameError
from transferkit.images import Skipped
from transferkit.inspection import Finding, Inspection, restore
from transferkit.inspection.observation import hash_file
from transferkit.inspection.quarantine import MANIFEST

CONTENT = {"a/1.jpg": b"one", "a/2.jpg": b"one", "b/1.jpg": b"two", "b/3.jpg": b"three"}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for name, content in CONTENT.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def inspection(root: Path, *findings: tuple[str, str], whole: bool = True) -> Inspection:
    """Return an inspection with findings about files below a folder."""
    files = [str(root / name) for name in CONTENT]
    return Inspection(
        findings=[Finding(str(root / name), kind) for name, kind in findings],
        label_ranking=[],
        sources=files,
        labels=None,
        splits=None,
        notes=[],
        skipped=[],
        network="mobilenet_v2",
        root=root if whole else None,
        images=files,
        digests=[hash_file(file) for file in files],
    )


def content_below(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("whole", [True, False])
def test_files_move_and_come_back(photos: Path, tmp_path: Path, whole: bool) -> None:
    found = inspection(photos, ("a/2.jpg", "duplicate"), ("b/1.jpg", "unreadable"), whole=whole)
    result = found.quarantine(tmp_path / "bad")
    assert result.left == []
    assert content_below(photos) == {"a/1.jpg": b"one", "b/3.jpg": b"three"}
    moved = content_below(tmp_path / "bad")
    assert moved.pop(MANIFEST)
    assert moved == {"duplicate/a/2.jpg": b"one", "unreadable/b/1.jpg": b"two"}
    assert set(result.moved) == {str(photos / "a/2.jpg"), str(photos / "b/1.jpg")}
    assert sorted(restore(tmp_path / "bad")) == [photos / "a/2.jpg", photos / "b/1.jpg"]
    assert content_below(photos) == CONTENT
    assert not (tmp_path / "bad").exists()


def test_only_chosen_kinds_are_moved(photos: Path, tmp_path: Path) -> None:
    found = inspection(photos, ("a/2.jpg", "near-duplicate"), ("b/1.jpg", "label"))
    assert found.quarantine(tmp_path / "bad").moved == {}
    assert content_below(photos) == CONTENT
    assert list(found.quarantine(tmp_path / "bad", kinds=["label"]).moved) == [
        str(photos / "b/1.jpg")
    ]


def test_a_second_quarantine_adds_to_the_first(photos: Path, tmp_path: Path) -> None:
    found = inspection(photos, ("a/2.jpg", "duplicate"), ("b/1.jpg", "label"))
    found.quarantine(tmp_path / "bad")
    found.quarantine(tmp_path / "bad", kinds=["label"])
    assert len(restore(tmp_path / "bad")) == 2
    assert content_below(photos) == CONTENT


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("resumed", [True, False])
def test_after_a_crash_the_moves_can_be_completed_or_undone(
    photos: Path, tmp_path: Path, step: int, resumed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = inspection(photos, *((name, "duplicate") for name in ("a/2.jpg", "b/1.jpg", "b/3.jpg")))
    original, calls = Path.rename, 0

    def rename(self: Path, target: Any) -> Path:
        nonlocal calls
        if calls == step:
            raise KeyboardInterrupt
        calls += 1
        return original(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        if step < 3:
            with pytest.raises(KeyboardInterrupt):
                found.quarantine(tmp_path / "bad")
        else:
            found.quarantine(tmp_path / "bad")
    assert len(content_below(photos)) == 4 - min(step, 3)
    if resumed:
        found.quarantine(tmp_path / "bad")
        assert content_below(photos) == {"a/1.jpg": b"one"}
    restore(tmp_path / "bad")
    assert content_below(photos) == CONTENT


def test_a_move_to_another_file_system_copies(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path.rename

    def rename(self: Path, target: Any) -> Path:
        if not self.name.endswith(".part"):
            raise OSError(18, "Invalid cross-device link")
        return original(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    inspection(photos, ("a/2.jpg", "duplicate")).quarantine(tmp_path / "bad")
    assert "a/2.jpg" not in content_below(photos)
    restore(tmp_path / "bad")
    assert content_below(photos) == CONTENT


def test_the_only_copy_of_a_file_that_is_listed_twice_stays(photos: Path, tmp_path: Path) -> None:
    """A table may have several rows for one image."""
    file = str(photos / "b/1.jpg")
    found = inspection(photos)
    for kind in ("duplicate", "conflicting-label"):
        found.findings.append(Finding(file, kind, 1.0, None, file))
    result = found.quarantine(tmp_path / "bad", kinds=["duplicate", "conflicting-label"])
    assert result == ({}, [Skipped(file, "the same file as another one that stays")])
    # But not if it is also a copy of another file.
    found.findings.append(Finding(file, "duplicate", 1.0, None, str(photos / "b/3.jpg")))
    assert list(found.quarantine(tmp_path / "bad").moved) == [file]


def test_changed_files_stay(photos: Path, tmp_path: Path) -> None:
    found = inspection(photos, ("a/2.jpg", "duplicate"), ("b/1.jpg", "duplicate"))
    (photos / "a/2.jpg").write_bytes(b"new")
    (photos / "b/1.jpg").unlink()
    result = found.quarantine(tmp_path / "bad")
    assert result.moved == {}
    assert [one.reason.partition(":")[0] for one in result.left] == [
        "changed after the inspection",
        "cannot be read",
    ]
    assert (photos / "a/2.jpg").read_bytes() == b"new"
    assert not (tmp_path / "bad" / MANIFEST).exists()


def test_a_file_that_is_listed_twice_stays(photos: Path, tmp_path: Path) -> None:
    link = photos / "b/3.jpg"
    link.unlink()
    link.symlink_to(photos / "a/1.jpg")
    result = inspection(photos, ("b/3.jpg", "duplicate")).quarantine(tmp_path / "bad")
    assert [one.reason for one in result.left] == ["the same file as another one that stays"]
    assert link.exists()


@pytest.mark.parametrize("is_relative", [True, False])
def test_links_move_and_come_back(photos: Path, tmp_path: Path, is_relative: bool) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/2.jpg").write_bytes(b"one")
    link = photos / "a/2.jpg"
    link.unlink()
    link.symlink_to("../../elsewhere/2.jpg" if is_relative else tmp_path / "elsewhere/2.jpg")
    before = os.readlink(link)
    found = inspection(photos, ("a/2.jpg", "duplicate"))
    assert found.quarantine(tmp_path / "more/bad").left == []
    assert not os.path.lexists(link)
    assert (tmp_path / "more/bad/duplicate/a/2.jpg").read_bytes() == b"one"
    # Even if what it leads to is gone.
    (tmp_path / "elsewhere/2.jpg").unlink()
    found.quarantine(tmp_path / "more/bad")
    assert restore(tmp_path / "more/bad") == [link]
    assert os.readlink(link) == before


def test_a_new_file_in_the_place_of_a_moved_one_is_moved_too(photos: Path, tmp_path: Path) -> None:
    inspection(photos, ("a/2.jpg", "duplicate")).quarantine(tmp_path / "bad")
    (photos / "a/2.jpg").write_bytes(b"new")
    # It has no findings, and is no business of the quarantine.
    assert inspection(photos).quarantine(tmp_path / "bad") == ({}, [])
    result = inspection(photos, ("a/2.jpg", "duplicate")).quarantine(tmp_path / "bad")
    assert list(result.moved.values()) == [str(tmp_path / "bad/duplicate/a/2-2.jpg")]
    assert result.left == []
    with pytest.raises(OutputError, match="another file is there now; 1 files were moved back"):
        restore(tmp_path / "bad")
    assert (photos / "a/2.jpg").read_bytes() == b"one"
    assert (tmp_path / "bad/duplicate/a/2-2.jpg").read_bytes() == b"new"
    (photos / "a/2.jpg").unlink()
    restore(tmp_path / "bad")
    assert (photos / "a/2.jpg").read_bytes() == b"new"


def test_nothing_is_overwritten(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "bad/duplicate/a").mkdir(parents=True)
    (tmp_path / "bad/duplicate/a/2.jpg").write_bytes(b"mine")
    inspection(photos, ("a/2.jpg", "duplicate")).quarantine(tmp_path / "bad")
    assert (tmp_path / "bad/duplicate/a/2.jpg").read_bytes() == b"mine"
    assert (tmp_path / "bad/duplicate/a/2-2.jpg").read_bytes() == b"one"
    (photos / "a/2.jpg").write_bytes(b"taken")
    with pytest.raises(OutputError, match=r"2\.jpg: another file is there now"):
        restore(tmp_path / "bad")
    assert (photos / "a/2.jpg").read_bytes() == b"taken"
    (photos / "a/2.jpg").unlink()
    assert restore(tmp_path / "bad") == [photos / "a/2.jpg"]


def test_the_folder_may_be_moved(photos: Path, tmp_path: Path) -> None:
    inspection(photos, ("a/2.jpg", "duplicate")).quarantine(tmp_path / "bad")
    shutil.move(tmp_path / "bad", tmp_path / "elsewhere")
    restore(tmp_path / "elsewhere")
    assert content_below(photos) == CONTENT


def test_invalid_calls(photos: Path, tmp_path: Path) -> None:
    found = inspection(photos, ("a/2.jpg", "duplicate"))
    with pytest.raises(UnknownNameError, match="did you mean 'duplicate'"):
        found.quarantine(tmp_path / "bad", kinds=["duplicates"])
    with pytest.raises(ParameterError, match="imbalance"):
        found.quarantine(tmp_path / "bad", kinds=["imbalance"])
    with pytest.raises(OutputError, match="inside the inspected folder"):
        found.quarantine(photos / "bad")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a file; expected a folder"):
        found.quarantine(tmp_path / "file" / "bad")
    assert content_below(photos) == CONTENT


@pytest.mark.parametrize(
    "content",
    [
        None,
        "[]",
        "{",
        '{"format": 2, "moves": []}',
        '{"format": 1, "moves": [{"source": "/x"}]}',
        json.dumps(
            {
                "format": 1,
                "moves": [{"source": "/x", "target": "../y", "kind": "label", "sha256": ""}],
            }
        ),
    ],
)
def test_restore_needs_a_manifest(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(FileFormatError, match=r"manifest\.json"):
        restore(tmp_path)
