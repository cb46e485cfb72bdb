from __future__ import annotations

import importlib.metadata
import runpy
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "plugins" / "airflow_prominence_plugin.py"


def _plugins(monkeypatch: pytest.MonkeyPatch, *registered: str) -> list[str]:
    points = tuple(importlib.metadata.EntryPoint("p", value, "airflow.plugins") for value in registered)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    return [name for name in runpy.run_path(str(FILE)) if name.endswith("Plugin")]


def test_the_plugins_folder_registers_what_no_entry_point_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _plugins(monkeypatch) == ["ProminencePlugin"]


def test_the_plugins_folder_registers_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _plugins(monkeypatch, "airflow_prominence.plugin:ProminencePlugin") == []
