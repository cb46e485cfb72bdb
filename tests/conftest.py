"""What holds for every test: an Airflow home of its own, and no test left out unnoticed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything imports Airflow, which reads its configuration at import and writes one where there is none.
_AIRFLOW_HOME = tempfile.TemporaryDirectory(prefix="prominence-tests-")
for _name in [name for name in os.environ if name.startswith(("AIRFLOW", "PROMINENCE_"))]:
    del os.environ[_name]
os.environ["AIRFLOW_HOME"] = _AIRFLOW_HOME.name
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__API_AUTH__JWT_SECRET"] = "only-for-tests-" + "x" * 32
os.environ["AIRFLOW__CORE__FERNET_KEY"] = "cHJvbWluZW5jZS1jaGVja3MtZmVybmV0LWtleSExMjM="

_IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """In CI a skipped test is a failed one: what could not be tried there is not known to work."""
    report: pytest.TestReport = yield  # type: ignore[assignment,misc]
    if _IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        where = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, which CI does not allow: {where}"
    return report  # type: ignore[return-value]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that start a Docker daemon or make a Debian root of their own run only when asked for by path or marker."""
    asked = config.option.markexpr or any("deploy" in Path(str(argument)).parts for argument in config.args)
    if not asked:
        kept = [item for item in items if not any(item.get_closest_marker(name) for name in ("deploy", "sites"))]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept
