"""``transferkit backends``."""

from __future__ import annotations

import pytest
from command_line import output_of

from transferkit.backends import BackendInfo


def test_backends_are_listed() -> None:
    text = output_of("backends")
    for name in ("onnxruntime", "torch", "tensorflow", "inference"):
        assert name in text


def test_reason_why_a_backend_cannot_be_used_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    def describe_backend(name: str) -> BackendInfo:
        return BackendInfo(name, "some-plugin", None, (), (), f"{name} is not installed")

    monkeypatch.setattr("transferkit.backends.describe_backend", describe_backend)
    lines = output_of("backends").splitlines()
    (row,) = (line for line in lines if line.startswith("│ torch "))
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "torch", "no", "", "", "", "some-plugin",
    ]  # fmt: skip
    assert "torch is not installed" in lines
