"""The package's public surface is small and said once."""

from __future__ import annotations

import subprocess
import sys
import types

from airflow_prominence import documents


def test_all() -> None:
    public = {
        name
        for name, value in vars(documents).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public == set(documents.__all__)
    assert len(documents.__all__) == len(set(documents.__all__))


def test_needs_neither_airflow_nor_a_database() -> None:
    code = (
        "import sys, airflow_prominence.documents\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(loaded & {'airflow', 'sqlalchemy', 'fastapi', 'requests'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
