"""Progress bars: where they are shown, and what they show."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from transferkit.support.progress import show_progress


class Handle:
    """A display of a notebook, which records what it shows."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, str]] = []

    def update(self, content: object) -> None:
        self.shown.append((repr(content), content._repr_html_()))  # type: ignore[attr-defined]


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[Handle]:
    """Pretend that the tests run in a notebook; the displays that are created."""
    handles: list[Handle] = []

    def display(content: object, *, display_id: bool) -> Handle:
        assert display_id
        handles.append(Handle())
        handles[-1].update(content)
        return handles[-1]

    package, module = ModuleType("IPython"), ModuleType("IPython.display")
    package.get_ipython = lambda: SimpleNamespace(kernel=None)  # type: ignore[attr-defined]
    module.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr("transferkit.support.notebook_progress._INTERVAL", 0.0)
    return handles


def test_progress_is_shown_in_a_notebook_and_removed_at_the_end(
    notebook: list[Handle], capfd: pytest.CaptureFixture[str]
) -> None:
    with show_progress("Counting <rows>", 4, shown=None) as advance:
        advance(1)
        advance(3)
    ((*shown, last),) = (handle.shown for handle in notebook)
    texts = [text.split(",")[0] for text, _ in shown]
    assert texts == [f"Counting <rows>: {number} of 4" for number in (0, 1, 4)]
    assert shown[1][0].endswith(", 0:00 left")
    assert shown[1][1].startswith('<progress max="4" value="1"></progress> Counting &lt;rows&gt;')
    assert last == ("", "")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_status_is_shown_after_the_task(
    notebook: list[Handle], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    skipped = 0
    with show_progress("Counting", 4, shown=True, status=lambda: f", {skipped} skipped") as advance:
        skipped = 2
        advance(1)
    assert notebook[0].shown[1][0].startswith("Counting, 2 skipped: 1 of 4")
    monkeypatch.delitem(sys.modules, "IPython")
    with show_progress("Counting", 4, shown=True, status=lambda: f", {skipped} skipped") as advance:
        skipped = 3
        advance(4)
    assert "Counting, 3 skipped" in capfd.readouterr().err


def test_progress_is_removed_after_an_error(notebook: list[Handle]) -> None:
    with pytest.raises(KeyboardInterrupt), show_progress("Counting", 4, shown=True):
        raise KeyboardInterrupt
    assert notebook[0].shown[-1] == ("", "")


def test_bytes_and_unknown_totals_in_a_notebook(notebook: list[Handle]) -> None:
    with show_progress("Downloading", None, shown=True, in_bytes=True) as advance:
        advance(2_500_000)
    assert notebook[0].shown[1] == ("Downloading: 2.5 MB",) * 2
    with show_progress("Downloading", 5_000_000, shown=True, in_bytes=True) as advance:
        advance(2_500_000)
    assert notebook[1].shown[1][0].startswith("Downloading: 2.5 of 5.0 MB, ")


def test_updates_are_limited(notebook: list[Handle], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transferkit.support.notebook_progress._INTERVAL", 1000.0)
    with show_progress("Counting", 100, shown=True) as advance:
        for _ in range(100):
            advance(1)
    assert len(notebook[0].shown) == 2


def test_progress_is_hidden_on_request(notebook: list[Handle]) -> None:
    with show_progress("Counting", 4, shown=False) as advance:
        advance(1)
    assert notebook == []


@pytest.mark.parametrize("shell", [None, SimpleNamespace()])
def test_ipython_on_a_terminal_is_not_a_notebook(
    notebook: list[Handle],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    shell: object,
) -> None:
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: shell)
    with show_progress("Counting", 4, shown=True) as advance:
        advance(4)
    assert notebook == []
    assert "4/4" in capfd.readouterr().err


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress_is_shown_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], is_terminal: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    with show_progress("Counting", 4, shown=None) as advance:
        advance(4)
    assert ("Counting" in capfd.readouterr().err) == is_terminal
