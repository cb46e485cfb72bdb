"""A triggerer runs all triggers in one process without a database: importing ours must not bring one in."""

from __future__ import annotations

import json
import subprocess
import sys

_PROGRAM = """
import json, sys
import airflow.triggers.base
import airflow.sdk
before = set(sys.modules)
import airflow_prominence.triggers.phase
import airflow_prominence.triggers.maintenance
import airflow_prominence.operators
import airflow_prominence.driver.process
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_no_orm_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], check=True, capture_output=True, text=True)
    added = json.loads(done.stdout.splitlines()[-1])
    assert "airflow_prominence.triggers.phase" in added
    unwanted = ("airflow.models", "sqlalchemy", "airflow_prominence.store", "airflow_prominence.api", "fastapi")
    assert [name for name in added if name.startswith(unwanted)] == []
