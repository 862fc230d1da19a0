"""Small archives with the structure of the published ones, for tests."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from transferkit.datasets.published import PublishedArchive

BREEDS = {"Abyssinian": (1, 1), "american_bulldog": (2, 2), "Maine_Coon": (3, 1), "pug": (4, 2)}
CORRUPT = ("PetImages/Cat/666.jpg", "PetImages/Dog/117.jpg")


def image(seed: int, kind: str = "JPEG") -> bytes:
    """Return the content of an image file that differs by seed."""
    content = io.BytesIO()
    pixels = hashlib.sha256(str(seed).encode()).digest() * 6
    Image.frombytes("RGB", (8, 8), pixels).save(content, kind)
    return content.getvalue()


def tar_gz(files: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return content.getvalue()


def pets_files() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return the files of images.tar.gz and of annotations.tar.gz.

    Each breed has images 1 to 5 for training and 10 to 12 for testing, and one in neither list.
    """
    images: dict[str, bytes] = {"images/Abyssinian_101.mat": b"MATLAB 5.0 MAT-file"}
    lists: dict[str, list[str]] = {"trainval": [], "test": []}
    for breed, (class_id, species) in BREEDS.items():
        for number in (1, 2, 3, 4, 5, 10, 11, 12, 99):
            # Some are of other formats than their names say.
            kind = {2: "PNG", 11: "GIF"}.get(number, "JPEG")
            name = f"{breed}_{number}"
            images[f"images/{name}.jpg"] = image(100 * class_id + number, kind)
            if number != 99:
                line = f"{name} {class_id} {species} 1"
                lists["trainval" if number < 10 else "test"].append(line)
    annotations = {
        "./annotations/README": b"see trainval.txt",
        "./annotations/trimaps/._Abyssinian_1.png": b"Mac OS X",
        "./annotations/trimaps/Abyssinian_1.png": image(0, "PNG"),
        "./annotations/list.txt": b"#Image CLASS-ID SPECIES BREED ID\n",
        **{
            f"./annotations/{name}.txt": "".join(f"{line}\n" for line in lines).encode()
            for name, lines in lists.items()
        },
    }
    return images, annotations


def cats_files(number: int = 20) -> dict[str, bytes]:
    """Return the files of kagglecatsanddogs_5340.zip, of which two images do not decode."""
    files = {"MSR-LA - 3467.docx": b"license", "readme[1].txt": b"read me"}
    for label, offset in (("Cat", 0), ("Dog", 1000)):
        for index in range(number):
            files[f"PetImages/{label}/{index}.jpg"] = image(offset + index)
        files[f"PetImages/{label}/Thumbs.db"] = b"\xd0\xcf\x11\xe0"
    # A copy, which stays on the side of the first one.
    files["PetImages/Cat/3.jpg"] = files["PetImages/Cat/1.jpg"]
    files["PetImages/Cat/4.jpg"] = image(4, "PNG")
    files[CORRUPT[0]] = b""
    files[CORRUPT[1]] = image(117)[:200]
    return files


def zipped(files: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.mkdir("PetImages")
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def as_published(original: PublishedArchive, content: bytes, url: str = "") -> PublishedArchive:
    """Return the row of the catalog that describes this content instead."""
    return dataclasses.replace(
        original,
        url=url or original.url,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def tree(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
