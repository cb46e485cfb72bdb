"""What Airflow's maintenance DAG does on a running stack."""

from __future__ import annotations

from tests.integration.airflows import Airflow
from tests.integration.stacks import until


def test_a_maintenance_run_comes_to_its_end(airflow: Airflow) -> None:
    def succeeded() -> int:
        answer = airflow.http.get("/api/v2/dags/prominence_maintenance/dagRuns", params={"state": "success"})
        answer.raise_for_status()
        return int(answer.json()["total_entries"])

    until(succeeded, 120, 1, "a run of the maintenance DAG succeeds")
