"""What Airflow is told about the package holds against Airflow's own schema, and against the package."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
from pathlib import Path

import airflow
import jsonschema
import pytest

from airflow_prominence import __version__
from airflow_prominence.provider_info import get_provider_info


def test_passes_airflows_schema() -> None:
    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(get_provider_info(), schema)


def test_package_name_is_the_distributions() -> None:
    assert importlib.metadata.distribution(get_provider_info()["package-name"]).version == __version__


def test_entry_points_lead_somewhere() -> None:
    points = importlib.metadata.distribution("airflow-prominence").entry_points
    assert {point.group for point in points} == {"apache_airflow_provider", "airflow.plugins"}
    assert all(point.load() for point in points)


@pytest.mark.parametrize("kind", ["operators", "sensors", "triggers", "bundles"])
def test_named_modules_exist(kind: str) -> None:
    for entry in get_provider_info()[kind]:
        for module in entry["python-modules"]:
            assert importlib.import_module(module)


@pytest.mark.parametrize("kind", ["db-managers", "cli"])
def test_named_objects_exist(kind: str) -> None:
    for path in get_provider_info()[kind]:
        module, _, name = path.rpartition(".")
        assert getattr(importlib.import_module(module), name)


def test_named_decorators_exist() -> None:
    for decorator in get_provider_info()["task-decorators"]:
        module, _, name = decorator["class-name"].rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))


def test_every_option_is_described_and_has_a_default_as_text() -> None:
    section = get_provider_info()["config"]["prominence"]
    for name, option in section["options"].items():
        assert option["description"].endswith("."), name
        assert isinstance(option["default"], str), name
        assert option["type"] in {"string", "integer", "float", "boolean"}, name
    assert section["options"]["internal_secret"]["sensitive"] is True
