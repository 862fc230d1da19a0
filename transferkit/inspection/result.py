"""`Inspection`: the findings about a data set, as a table, JSON, a page, or a quarantine."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.images import ImageLike, Skipped
from transferkit.inspection.findings import KINDS, Finding, check_kinds
from transferkit.inspection.quarantine import DEFAULT_KINDS, Quarantined, move_files
from transferkit.inspection.report import Inspected, write_report
from transferkit.support.atomic_write import write_atomically
from transferkit.support.data_frames import import_pandas

__all__ = ["Inspection"]


@dataclass(frozen=True, eq=False, repr=False)
class Inspection:
    """The result of `transferkit.inspect_images`.

    Attributes
    ----------
    findings
        What is wrong, one record for each image and kind, in the order of
        `transferkit.inspection.KINDS`.
    label_ranking
        All images that can be judged, as findings of the kind ``"label"``, the most doubtful label
        first; those above the threshold are in ``findings``.
    sources
        The path of each image, or its position in the input.
    labels, splits
        (n,) of each image; None if there are none.
    notes
        What most of the images have in common, as sentences.
    skipped
        What in the folder was not inspected, and why.
    network
        The name of the network that computed the embeddings.
    root
        The folder that was inspected; None for other data.
    images
        (n,) the images.
    digests
        (n,) the SHA-256 of each file; empty if it could not be read.
    """

    findings: list[Finding]
    label_ranking: list[Finding]
    sources: list[str]
    labels: npt.NDArray[Any] | None
    splits: npt.NDArray[Any] | None
    notes: list[str]
    skipped: list[Skipped]
    network: str
    root: Path | None
    images: Sequence[ImageLike] | npt.NDArray[np.generic]
    digests: list[bytes]

    @property
    def counts(self) -> dict[str, int]:
        """Each kind that was found, with the number of its findings."""
        counts = Counter(finding.kind for finding in self.findings)
        return {kind: counts[kind] for kind in KINDS if counts[kind]}

    @property
    def headline(self) -> str:
        """The number of images and findings, as a clause."""
        files = {one.file for one in self.findings if one.kind != "imbalance"}
        number = len(self.sources)
        noun = "image" if number == 1 else "images"
        found = "finding" if len(self.findings) == 1 else "findings"
        return f"{number:,} {noun}, {len(self.findings):,} {found} about {len(files):,} of them"

    def of_kind(self, kind: str) -> list[Finding]:
        """Return the findings of one kind.

        Raises
        ------
        UnknownNameError
            If there is no such kind.
        """
        check_kinds([kind])
        return [finding for finding in self.findings if finding.kind == kind]

    def summary(self) -> str:
        """Return the number of findings of each kind as text, one line for each."""
        lines = [self.headline]
        lines += [f"  {number:>6,}  {kind}: {KINDS[kind]}" for kind, number in self.counts.items()]
        return "\n".join(lines + self.notes)

    def to_pandas(self) -> Any:
        """Return the findings as a data frame; requires pandas.

        Returns
        -------
        pandas.DataFrame
            One row for each finding, with the columns file, kind, measure, threshold and related.

        Raises
        ------
        UnsupportedError
            If pandas is not installed.
        """
        return import_pandas().DataFrame(self.findings, columns=list(Finding._fields))

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return the findings as JSON, and write them to a file if one is given.

        Parameters
        ----------
        path
            The file to write; None: none.

        Returns
        -------
        str
            An object with ``images``, ``network``, ``counts``, ``notes``, ``findings`` and
            ``skipped``.

        Raises
        ------
        OutputError
            If the file cannot be written.
        """
        content = {
            "images": len(self.sources),
            "network": self.network,
            "counts": self.counts,
            "notes": self.notes,
            "findings": [finding._asdict() for finding in self.findings],
            "skipped": [{"source": one.source, "reason": one.reason} for one in self.skipped],
        }
        text = json.dumps(content, indent=2) + "\n"
        if path is not None:
            with write_atomically(Path(path)) as file:
                file.write(text.encode("ascii"))
        return text

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write a page that shows the findings with thumbnails; requires the extra ``report``.

        Parameters
        ----------
        path
            The ``.html`` file to write. It needs no other files and no network access.

        Raises
        ------
        OutputError
            If the file cannot be written.
        UnsupportedError
            If Jinja or matplotlib is not installed.
        """
        write_report(
            Inspected(
                self.findings,
                self.sources,
                self.images,
                self.labels,
                self.splits,
                self.notes,
                self.skipped,
                self.network,
                self.root,
            ),
            path,
        )

    def quarantine(
        self, folder: str | os.PathLike[str], *, kinds: Iterable[str] = DEFAULT_KINDS
    ) -> Quarantined:
        """Move files with findings to another folder; `transferkit.inspection.restore` undoes it.

        Nothing is deleted or overwritten. A list of all moves, ``manifest.json``, is written before
        the first one; after an interruption, the same call completes them.

        Parameters
        ----------
        folder
            Where to move the files; it is created, and may not be inside the inspected folder.
        kinds
            The kinds whose files are moved. The default is the two that need no decision: files
            that cannot be decoded, and exact copies of a file that stays. For pairs, the file of
            the finding is moved and the related one stays.

        Returns
        -------
        Quarantined
            The files that were moved, and those that were left and why, such as files that were
            changed after the inspection.

        Raises
        ------
        ParameterError
            If a kind has no files, or the images are no files.
        UnknownNameError
            If a kind is unknown.
        OutputError
            If the folder cannot be written, or a file cannot be moved.
        """
        return move_files(
            self.findings,
            dict(zip(self.sources, self.digests, strict=True)),
            [os.fspath(image) for image in self.images if isinstance(image, (str, os.PathLike))],
            self.root,
            folder,
            kinds,
        )

    def __repr__(self) -> str:
        return f"<Inspection: {self.headline}>"

    def __str__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{kind}</td><td>{number}</td><td>{escape(KINDS[kind])}</td></tr>"
            for kind, number in self.counts.items()
        )
        return (
            f"<p>{escape(self.headline)}</p><table><thead><tr><th>kind</th><th>findings</th>"
            f"<th>meaning</th></tr></thead><tbody>{rows}</tbody></table>"
        )
