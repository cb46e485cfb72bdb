from __future__ import annotations

from types import SimpleNamespace

import pytest

from airflow_prominence.links import JobLink


def _link(dag_id: str, run_id: str) -> str:
    return JobLink().get_link(None, ti_key=SimpleNamespace(dag_id=dag_id, run_id=run_id))


def test_a_jobs_task_links_to_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__PROMINENCE__PUBLIC_URL", "https://batch.example.org/api/v1/")
    assert _link("prominence_job", "job-12.pi") == "https://batch.example.org/api/v1/jobs/12"
    monkeypatch.setenv("AIRFLOW__PROMINENCE__PUBLIC_URL", "")
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.org/")
    assert _link("prominence_job", "job-12.pi") == "https://airflow.example.org/api/v1/jobs/12"


def test_others_have_none() -> None:
    assert _link("somebodys_dag", "job-12.pi") == ""
    assert _link("prominence_job", "manual__2026-01-01T00:00:00+00:00") == ""
