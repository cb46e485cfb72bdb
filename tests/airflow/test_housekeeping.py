"""What Airflow's maintenance DAG does on a running stack."""

from __future__ import annotations

import time
from typing import Any

from airflow_prominence.dags.names import API_BUNDLE
from tests.integration.airflows import Airflow
from tests.integration.stacks import Stack, until


def test_a_maintenance_run_comes_to_its_end(airflow: Airflow) -> None:
    def succeeded() -> int:
        answer = airflow.http.get("/api/v2/dags/prominence_maintenance/dagRuns", params={"state": "success"})
        answer.raise_for_status()
        return int(answer.json()["total_entries"])

    until(succeeded, 120, 1, "a run of the maintenance DAG succeeds")


def test_db_clean_takes_nothing_from_a_running_workflow(stack: Stack, airflow: Airflow) -> None:
    # As after a week in which no API server was started: nobody parses our DAGs, which is what the command goes by.
    # Those of files, which other tests have taken away, are none of ours: the command fails of them in any Airflow.
    aged = "UPDATE dag SET last_parsed_time = now() - interval '7 days' WHERE bundle_name = %s"
    stack.psql(aged, API_BUNDLE)
    with stack.client() as client:
        first, then = document(stack, "first", "sleep 15"), document(stack, "then", "echo done")
        body = {"name": "kept", "jobs": [first, then], "dependencies": {"first": ["then"]}}
        workflow = client.post("/workflows", json=body).json()["id"]
        stack.psql(aged, API_BUNDLE)
        answer = airflow.of("prominence_maintenance").trigger({})
        assert answer.status_code == 200, answer.text
        airflow.of("prominence_maintenance").ended(answer.json()["dag_run_id"])
        before = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600))
        done = stack.run_airflow("db", "clean", "--clean-before-timestamp", before, "--yes", "--skip-archive")
        assert done.code == 0, done.stderr
        until(lambda: client.get(f"/workflows/{workflow}").json()[0]["status"] == "completed", 90, 0.5)
        assert client.get(f"/workflows/{workflow}/then/stdout").text == "done\n"
    dag = airflow.of(f"workflow-{workflow}.kept")
    assert dag.ended(f"workflow-{workflow}") == "success"
    assert stack.wait(stack.submit(document(stack, "later", "true")), "completed")


def document(stack: Stack, name: str, cmd: str) -> dict[str, Any]:
    task = {"image": stack.image, "runtime": "singularity", "cmd": cmd}
    return {"name": name, "resources": {"cpus": 1, "memory": 1, "disk": 1}, "tasks": [task]}
