"""Tables of files and labels: every usual form is read, and what is wrong is named."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from transferkit import Classifier
from transferkit.datasets import from_csv
from transferkit.datasets.tables import _parse_csv
from transferkit.errors import DatasetError, ParameterError, UnknownNameError, UnsupportedError

NAMES = ("a.png", "more/b.png", "more/c, d.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "more").mkdir()
    for name in NAMES:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    return tmp_path


def write(folder: Path, content: str | bytes, name: str = "photos.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


TABLES = {
    "comma": 'file,label\na.png,cat\nmore/b.png,dog\n"more/c, d.png",cat\n',
    "semicolon": "file;label\na.png;cat\nmore/b.png;dog\nmore/c, d.png;cat\n",
    "tab": "file\tlabel\na.png\tcat\nmore/b.png\tdog\nmore/c, d.png\tcat",
    "byte order mark": "\ufefffile;label\na.png;cat\nmore/b.png;dog\nmore/c, d.png;cat\n",
    "Windows": "file;label\r\na.png;cat\r\nmore\\b.png;dog\r\nmore\\c, d.png;cat\r\n",
    "UTF-16": "file\tlabel\na.png\tcat\nmore/b.png\tdog\nmore/c, d.png\tcat".encode("utf-16"),
    "spaces": ' File Name ; LABEL\n a.png ; cat\n\nmore/b.png; dog \n "more/c, d.png";cat\n ; \n',
    "other columns": "id,file,size,label\n1,a.png,,cat\n2,more/b.png,,dog\n"
    '3,"more/c, d.png",,cat\n',
}


@pytest.mark.parametrize("form", TABLES)
def test_text_is_read_in_every_usual_form(folder: Path, form: str) -> None:
    data = from_csv(write(folder, TABLES[form]))
    assert data.images == [folder / name for name in NAMES]
    assert data.labels.tolist() == ["cat", "dog", "cat"]
    assert (data.splits, data.groups, data.skipped) == (None, None, [])


cells = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1).map(
    str.strip
)


@given(
    rows=st.lists(st.tuples(cells.filter(bool), cells.filter(bool)), min_size=1),
    delimiter=st.sampled_from(",;\t"),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_the_csv_module_writes_is_read(
    rows: list[tuple[str, str]], delimiter: str, end: str
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("file", "label"), *rows])
    table = _parse_csv(Path("photos.csv"), text.getvalue())
    assert [(row["file"], row["label"]) for row in table.rows] == rows


def test_splits_and_groups_are_read(folder: Path) -> None:
    path = write(
        folder,
        "path,class,split,group,animal\na.png,cat,train,1,x\nmore/b.png,dog,test,2,y\n",
    )
    data = from_csv(path)
    assert data.labels.tolist() == ["cat", "dog"]
    assert data.split_names == ["test", "train"]
    assert data.groups is not None
    assert data.groups.tolist() == ["1", "2"]
    assert data.of_split("test").images == [folder / "more/b.png"]
    other = from_csv(path, file="path", label="split", group="animal")
    assert other.labels.tolist() == ["train", "test"]
    assert other.groups is not None
    assert other.groups.tolist() == ["x", "y"]
    assert other.splits is None


def test_paths_may_be_absolute(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    data = from_csv(write(elsewhere, f"file,label\n{folder / 'a.png'},cat\n"))
    assert data.images == [folder / "a.png"]


def test_metadata_of_imagefolder_data_sets_is_read(folder: Path) -> None:
    rows = [{"file_name": name, "label": index, "text": "x"} for index, name in enumerate(NAMES)]
    text = "\n".join(map(json.dumps, rows)) + "\n\n"
    data = from_csv(write(folder, text, "metadata.jsonl"))
    assert data.images == [folder / name for name in NAMES]
    assert data.labels.tolist() == [0, 1, 2]


def test_parquet_is_read(folder: Path) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    path = folder / "photos.parquet"
    frame = pd.DataFrame({"file": [*NAMES, "x.png"], "label": pd.array([1, 0, 1, None], "Int64")})
    frame.to_parquet(path)
    with pytest.raises(DatasetError, match="row 4: no value in the column 'label'"):
        from_csv(path)
    data = from_csv(path, on_error="skip")
    assert data.images == [folder / name for name in NAMES]
    assert data.labels.tolist() == [1, 0, 1]
    assert data.labels.dtype.kind == "i"
    with pytest.raises(DatasetError, match="not a valid Parquet file"):
        from_csv(write(folder, b"PAR1 broken", "broken.parquet"))


@pytest.mark.parametrize("module", ["pandas", "pyarrow"])
def test_parquet_without_its_libraries_says_what_to_install(
    folder: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if module != "pandas":
        pytest.importorskip("pandas")
    monkeypatch.setitem(__import__("sys").modules, module, None)
    monkeypatch.setitem(__import__("sys").modules, "fastparquet", None)
    with pytest.raises(UnsupportedError, match=f"pip install {module}"):
        from_csv(write(folder, b"PAR1", "photos.parquet"))


def test_missing_files_are_listed_or_skipped(folder: Path) -> None:
    names = [f"{number}.png" for number in range(7)]
    path = write(folder, "file,label\na.png,cat\n" + "".join(f"{name},dog\n" for name in names))
    with pytest.raises(DatasetError) as raised:
        from_csv(path)
    first = ", ".join(str(folder / name) for name in names[:5])
    assert f"7 of 8 files do not exist: {first}, ...; relative" in str(raised.value)
    assert str(raised.value).endswith("on_error='skip' skips them")
    data = from_csv(path, on_error="skip")
    assert data.images == [folder / "a.png"]
    assert [one.source for one in data.skipped] == [str(folder / name) for name in names]
    assert data.skipped[0].reason == "no such file (photos.csv, line 3)"


def test_a_table_of_missing_files_only_is_an_error(folder: Path) -> None:
    path = write(folder, "file,label\nx.png,cat\n")
    with pytest.raises(DatasetError, match="1 of 1 files do not exist"):
        from_csv(path, on_error="skip")
    # Longer than the name of a file may be.
    for name in ("x" * 5000, "x\\" * 5000):
        with pytest.raises(DatasetError, match="1 of 1 files do not exist"):
            from_csv(write(folder, f"file,label\n{name},cat\n"))


def test_missing_values_are_named_or_skipped(folder: Path) -> None:
    path = write(folder, "file,label\na.png,\n,dog\nmore/b.png,dog\n")
    with pytest.raises(DatasetError, match="line 2: no value in the column 'label'"):
        from_csv(path)
    data = from_csv(path, on_error="skip")
    assert data.labels.tolist() == ["dog"]
    assert [one.reason for one in data.skipped] == [
        "no value in the column 'label'",
        "no value in the column 'file'",
    ]
    with pytest.raises(DatasetError, match="no row has both a file and a label"):
        from_csv(write(folder, "file,label\na.png,\n"), on_error="skip")


PROBLEMS: dict[str, tuple[str | bytes, str]] = {
    "no header": ("a.png,cat\n", r"the column with the file is not recognized; .*'a\.png', 'cat'"),
    "two file columns": (
        "file,image,label\na.png,a.png,cat\n",
        "several columns may be the file: 'file', 'image'; rename it to 'file', or name it with",
    ),
    "one name twice": ("file,label,label\na.png,b,c\n", "several columns may be the label"),
    "no label": (
        "file,breed\na.png,pug\n",
        "the column with the label is not recognized; .*label=; the columns are 'file', 'breed'",
    ),
    "two splits": ("file,label,split,subset\na,b,c,d\n", "several columns may be the split"),
    "no rows": ("file,label\n", "the table has no rows"),
    "empty": ("", "the table has no rows"),
    "too few values": ("file,label\na.png\n", "line 2: 1 values for 2 columns"),
    "too many values": ("file,label\nmore/c, d.png,x\n", "line 2: 3 values for 2 columns"),
    "open quote": ('file,label\n"a.png,cat\n', "line 2: not valid CSV"),
    "Latin-1": ("file,label\na.png,Übung\n".encode("latin-1"), "line 2: not valid UTF-8 text"),
    "a zero byte": ("file,label\na\0.png,cat\n", "zero|NUL|expected the path"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_broken_table_is_described(folder: Path, problem: str) -> None:
    content, message = PROBLEMS[problem]
    with pytest.raises(DatasetError, match=message):
        from_csv(write(folder, content))


JSON_PROBLEMS = {
    '{"file_name": "a.png", "label": 1}\n{"file_name"': "line 2: not valid JSON",
    "[1, 2]": "line 1: .* expected a JSON object",
    '{"file_name": 3, "label": 1}': "line 1: the column 'file_name' has 3; expected the path",
    '{"file_name": "a.png", "label": [1]}': "labels of type list|has shape",
    '{"file_name": "a.png", "label": {"a": 1}}': "labels of type dict",
    "[" * 100_000: "line 1: not valid JSON",
}


@pytest.mark.parametrize("text", JSON_PROBLEMS, ids=range(len(JSON_PROBLEMS)))
def test_broken_json_is_described(folder: Path, text: str) -> None:
    with pytest.raises(DatasetError, match=JSON_PROBLEMS[text]):
        from_csv(write(folder, text, "metadata.jsonl"))


def test_a_named_column_must_exist_once(folder: Path) -> None:
    path = write(folder, "photo,breed,breed\na.png,pug,pug\n")
    with pytest.raises(UnknownNameError, match="no column 'photos'; did you mean 'photo'"):
        from_csv(path, file="photos", label="breed")
    with pytest.raises(DatasetError, match="several columns are named 'breed'"):
        from_csv(path, file="photo", label="breed")


def test_other_files_are_rejected(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"a\.png: not a table; expected a file that ends in"):
        from_csv(folder / "a.png")
    with pytest.raises(DatasetError, match=r"x\.csv: cannot be read: No such file"):
        from_csv(folder / "x.csv")
    (folder / "folder.csv").mkdir()
    with pytest.raises(DatasetError, match=r"folder\.csv: cannot be read"):
        from_csv(folder / "folder.csv")
    with pytest.raises(ParameterError, match="on_error is 'ignore'"):
        from_csv(folder / "a.csv", on_error="ignore")


def test_a_classifier_is_fitted_on_a_table(folder: Path) -> None:
    rows = 4
    for index in range(rows):
        shade = np.full((64, 64, 3), 40 * index, np.uint8)
        Image.fromarray(shade).save(folder / f"{index}.png")
    lines = "".join(f"{index}.png,{'dark' if index < 2 else 'light'}\n" for index in range(rows))
    data = from_csv(write(folder, "file,label\n" + lines))
    classifier = Classifier(backend="onnxruntime", C=1.0, progress=False).fit(data)
    assert classifier.classes_.tolist() == ["dark", "light"]
    assert classifier.evaluate(data).sources == [str(folder / f"{i}.png") for i in range(rows)]


def test_no_file_is_opened_for_ever(folder: Path, recwarn: Any) -> None:
    from_csv(write(folder, TABLES["comma"]))
    assert not recwarn.list
