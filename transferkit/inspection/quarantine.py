"""Moving files with findings to another folder, in a way that can be undone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from transferkit.errors import FileFormatError, OutputError, ParameterError, shorten_path
from transferkit.images import Skipped
from transferkit.inspection.findings import KINDS, PAIR_KINDS, Finding, check_kinds
from transferkit.inspection.observation import hash_file
from transferkit.support.atomic_write import write_atomically

__all__ = ["DEFAULT_KINDS", "MANIFEST", "Quarantined", "check_quarantine", "move_files", "restore"]

DEFAULT_KINDS = ("unreadable", "duplicate")
"""The kinds that are moved unless others are chosen."""

MANIFEST = "manifest.json"
"""The name of the list of moves."""

_FORMAT = 1
_SAME_FILE = "the same file as another one that stays"


class Quarantined(NamedTuple):
    """The result of `transferkit.inspection.Inspection.quarantine`.

    Attributes
    ----------
    moved
        The new path of each file that was moved, by its old one.
    left
        The files that were not moved, and why.
    """

    moved: dict[str, str]
    left: list[Skipped]


@dataclass(frozen=True)
class _Move:
    """One entry of the manifest: ``target`` is relative to its folder, with forward slashes."""

    source: str
    target: str
    kind: str
    sha256: str


def move_files(
    findings: Iterable[Finding],
    digests: Mapping[str, bytes],
    files: Sequence[str],
    root: Path | None,
    folder: str | os.PathLike[str],
    kinds: Iterable[str],
) -> Quarantined:
    """Move files; see `transferkit.inspection.Inspection.quarantine`.

    Parameters
    ----------
    findings
        Those of the inspection.
    digests
        The SHA-256 of each file.
    files
        All files that were inspected.
    root
        The folder that was inspected, if one was.
    folder
        Where to move the files.
    kinds
        The kinds whose files are moved.
    """
    if not files:
        raise ParameterError("the images that were inspected are no files, so none can be moved")
    chosen = check_kinds(kinds)
    check_quarantine(folder, root, chosen)
    target = Path(os.path.abspath(folder))
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{shorten_path(folder)}: the folder cannot be created: {error.strerror}"
        ) from error
    before = _read_manifest(target) if (target / MANIFEST).exists() else []
    moves, left = _plan(findings, digests, files, root, target, chosen, before)
    if before or moves:
        # Written before the first move, so that all of them can be undone at any time.
        _write_manifest(target, before + moves)
    planned = {move.source for move in moves}
    pending = [move for move in before if move.source not in planned and _is_pending(move, target)]
    moved: dict[str, str] = {}
    for move in pending + moves:
        path = target / move.target
        reason = _why_not_to_move(move, path)
        if reason is not None:
            left.append(Skipped(move.source, reason))
            continue
        _move(Path(move.source), path)
        moved[move.source] = str(path)
    _write_manifest(target, [one for one in before + moves if os.path.lexists(target / one.target)])
    return Quarantined(moved, left)


def check_quarantine(
    folder: str | os.PathLike[str], root: str | os.PathLike[str] | None, kinds: frozenset[str]
) -> None:
    """Check that files can be moved to a folder, before the work that finds them.

    Parameters
    ----------
    folder
        Where to move the files; it need not exist.
    root
        The folder that is inspected, if one is.
    kinds
        The kinds whose files are moved.

    Raises
    ------
    ParameterError
        If a kind has no files.
    OutputError
        If the folder is a file, is inside the inspected one, or cannot be written.
    """
    if "imbalance" in kinds:
        raise ParameterError("kinds has 'imbalance', which is about classes, not about files")
    target = Path(os.path.abspath(folder))
    if root is not None and target.resolve().is_relative_to(Path(root).resolve()):
        raise OutputError(
            f"{shorten_path(folder)}: inside the inspected folder, where its images would be "
            "found again; expected a folder outside of it"
        )
    existing = next(path for path in (target, *target.parents) if path.exists())
    if not existing.is_dir():
        raise OutputError(f"{shorten_path(existing)}: a file; expected a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"{shorten_path(existing)}: the folder is not writable")


def _plan(
    findings: Iterable[Finding],
    digests: Mapping[str, bytes],
    files: Sequence[str],
    root: Path | None,
    folder: Path,
    chosen: frozenset[str],
    before: Sequence[_Move],
) -> tuple[list[_Move], list[Skipped]]:
    """Return the moves of files that are not in the manifest yet, and what is left."""
    order = {kind: index for index, kind in enumerate(KINDS)}
    kind_of: dict[str, str] = {}
    listed_twice: set[str] = set()
    for finding in sorted(findings, key=lambda finding: order[finding.kind]):
        if finding.kind in chosen and _is_own_copy(finding):
            listed_twice.add(finding.file)
        elif finding.kind in chosen:
            kind_of.setdefault(finding.file, finding.kind)
    # A file that is listed under several names stays if one of them does.
    kept = {os.path.realpath(file) for file in files if file not in kind_of}
    # A new file may be where one was that has been moved.
    known = {(move.source, move.sha256) for move in before}
    taken = {move.target for move in before}
    absolute = [os.path.abspath(file) for file in files]
    base = (
        os.path.abspath(root)
        if root is not None
        else os.path.commonpath([os.path.dirname(file) for file in absolute])
    )
    moves: list[_Move] = []
    left = [Skipped(file, _SAME_FILE) for file in sorted(listed_twice - kind_of.keys())]
    for file, kind in kind_of.items():
        source = os.path.abspath(file)
        if (source, digests[file].hex()) in known:
            continue
        if os.path.realpath(file) in kept:
            left.append(Skipped(file, _SAME_FILE))
        elif not digests[file]:
            left.append(Skipped(file, "could not be read completely"))
        else:
            name = PurePosixPath(kind, Path(os.path.relpath(source, base)).as_posix())
            number = 1
            target = str(name)
            while target in taken or os.path.lexists(folder / target):
                number += 1
                target = str(name.with_name(f"{name.stem}-{number}{name.suffix}"))
            taken.add(target)
            moves.append(_Move(source, target, kind, digests[file].hex()))
    return moves, left


def _is_own_copy(finding: Finding) -> bool:
    """Return whether the two images of a pair are one file, which the data set lists twice."""
    return (
        finding.kind in PAIR_KINDS
        and finding.related is not None
        and os.path.realpath(finding.file) == os.path.realpath(finding.related)
    )


def _is_pending(move: _Move, folder: Path) -> bool:
    """Return whether a move of the manifest was interrupted: its file is still where it was."""
    if not os.path.lexists(move.source):
        return False
    return not (folder / move.target).exists() or _has_digest(Path(move.source), move.sha256)


def _why_not_to_move(move: _Move, path: Path) -> str | None:
    try:
        if hash_file(move.source).hex() != move.sha256:
            return "changed after the inspection"
        if path.exists() and hash_file(path).hex() != move.sha256:
            return f"another file is at {path}"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def _move(source: Path, target: Path) -> None:
    """Move a file that may be on another file system; at no time is there no complete copy."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            # A copy with the same content, from a move that was interrupted.
            source.unlink()
            return
        if source.is_symlink() and not os.path.isabs(os.readlink(source)):
            # A relative link leads to the same file from its new folder only if it is changed.
            linked = os.path.join(os.path.realpath(source.parent), os.readlink(source))
            target.symlink_to(os.path.relpath(linked, os.path.realpath(target.parent)))
            source.unlink()
            return
        try:
            source.rename(target)
        except OSError:
            part = target.with_name(target.name[:200] + ".part")
            shutil.copy2(source, part, follow_symlinks=False)
            part.rename(target)
            source.unlink()
    except OSError as error:
        raise OutputError(
            f"{shorten_path(source)}: cannot be moved to {shorten_path(target)}: {error.strerror}"
        ) from error


def restore(folder: str | os.PathLike[str]) -> list[Path]:
    """Move the files of a quarantine back to where they were.

    Parameters
    ----------
    folder
        The folder that `transferkit.inspection.Inspection.quarantine` filled.

    Returns
    -------
    list of Path
        The files that are back. When all are, the manifest is removed, and the folder if it is
        empty.

    Raises
    ------
    FileFormatError
        If the folder has no valid manifest.
    OutputError
        If the place of a file is taken, or a file cannot be moved; the others are moved back
        before, and the manifest keeps the rest.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from transferkit import inspect_images
    >>> from transferkit.inspection import restore
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     data = Path(folder, "photos")
    ...     data.mkdir()
    ...     for name in ("1.png", "2.png"):
    ...         Image.effect_noise((64, 64), 90).convert("RGB").save(data / name)
    ...     _ = (data / "2.png").write_bytes((data / "1.png").read_bytes())
    ...     found = inspect_images(data, backend="onnxruntime")
    ...     moved = found.quarantine(Path(folder, "bad")).moved
    ...     len(moved), [path.name for path in restore(Path(folder, "bad"))]
    (1, ['2.png'])
    """
    root = Path(os.path.abspath(folder))
    moves = _read_manifest(root)
    restored: list[Path] = []
    rest: list[_Move] = []
    problems: list[str] = []
    for move in moves:
        source, target = root / move.target, Path(move.source)
        if not os.path.lexists(source):
            # The move was planned, but not made; or the file is back already.
            continue
        if os.path.lexists(target) and not _has_digest(target, move.sha256):
            problems.append(f"{shorten_path(target)}: another file is there now")
            rest.append(move)
            continue
        try:
            _move(source, target)
        except OutputError as error:
            problems.append(str(error))
            rest.append(move)
        else:
            restored.append(target)
    _write_manifest(root, rest)
    _remove_empty_folders(root, [move.target for move in moves])
    if problems:
        others = f" (and {len(problems) - 1} others)" if len(problems) > 1 else ""
        raise OutputError(f"{problems[0]}{others}; {len(restored)} files were moved back")
    return restored


def _has_digest(path: Path, sha256: str) -> bool:
    try:
        return hash_file(path).hex() == sha256
    except OSError:
        return False


def _remove_empty_folders(root: Path, targets: Iterable[str]) -> None:
    folders = {parent for target in targets for parent in PurePosixPath(target).parents}
    for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
        try:
            (root / folder).rmdir()
        except OSError:  # not empty, or not there
            continue


def _read_manifest(folder: Path) -> list[_Move]:
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != _FORMAT:
            raise FileFormatError(f"{shorten_path(path)}: written by a newer version")
        moves = [_Move(**entry) for entry in content["moves"]]
        for move in moves:
            target = PurePosixPath(move.target)
            if target.is_absolute() or ".." in target.parts or not os.path.isabs(move.source):
                raise FileFormatError(f"{shorten_path(path)}: has a path that is not allowed")
    except FileNotFoundError:
        raise FileFormatError(
            f"{shorten_path(path)}: no such file; expected the folder of a quarantine"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(f"{shorten_path(path)}: not a manifest of a quarantine") from error
    return moves


def _write_manifest(folder: Path, moves: Sequence[_Move]) -> None:
    """Write the manifest, or remove it if there is nothing to undo."""
    path = folder / MANIFEST
    if not moves:
        path.unlink(missing_ok=True)
        return
    content = {"format": _FORMAT, "moves": [asdict(move) for move in moves]}
    with write_atomically(path) as file:
        file.write(json.dumps(content, indent=2).encode("ascii"))
