"""Airflow's own REST interface, as its pages use it."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.integration.stacks import until

DAG = "/api/v2/dags/prominence_job"


class Airflow:
    """What a user of Airflow sees of the runs of a DAG, that of jobs by default, and can do to them by hand."""

    def __init__(self, http: httpx.Client, dag: str = DAG) -> None:
        self.http, self.dag = http, dag

    def of(self, dag_id: str) -> Airflow:
        """The same for the runs of another DAG."""
        return Airflow(self.http, f"/api/v2/dags/{dag_id}")

    def newest_workflow(self) -> str:
        """The DAG of the workflow that was made last."""
        answer = self.http.get("/api/v2/dags", params={"dag_id_pattern": "workflow-", "limit": 1000})
        answer.raise_for_status()
        ids = [str(dag["dag_id"]) for dag in answer.json()["dags"] if dag["dag_id"].startswith("workflow-")]
        return max(ids, key=lambda dag_id: int(dag_id.partition(".")[0].partition("-")[2]))

    def run_of(self, job: int) -> str:
        """The run of a job, found as a user finds it: by its readable name."""

        def ask() -> str:
            answer = self.http.get(f"{self.dag}/dagRuns", params={"order_by": "-run_after", "limit": 100}).json()
            ids = [str(run["dag_run_id"]) for run in answer["dag_runs"]]
            return next((run for run in ids if run.split(".")[0] == f"job-{job}"), "")

        return until(ask, 10, what=f"the run of job {job}")

    def run(self, run_id: str) -> dict[str, Any]:
        answer = self.http.get(f"{self.dag}/dagRuns/{run_id}")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def ended(self, run_id: str, seconds: float = 120) -> str:
        """Wait for the run's end; its state then."""

        def ask() -> str:
            state = str(self.run(run_id)["state"])
            return state if state in ("success", "failed") else ""

        return until(ask, seconds, 0.5, f"run {run_id} ends: {self.tasks(run_id)}")

    def tasks(self, run_id: str) -> dict[str, str | None]:
        """The states of the run's tasks."""
        answer = self.http.get(f"{self.dag}/dagRuns/{run_id}/taskInstances")
        answer.raise_for_status()
        return {ti["task_id"]: ti["state"] for ti in answer.json()["task_instances"]}

    def tries(self, run_id: str, task: str) -> int:
        answer = self.http.get(f"{self.dag}/dagRuns/{run_id}/taskInstances/{task}/tries")
        answer.raise_for_status()
        return len(answer.json()["task_instances"])

    def until_task(self, run_id: str, task: str, state: str) -> None:
        until(lambda: self.tasks(run_id).get(task) == state, 90, 0.2, f"{task} of {run_id} is {state}")

    def fail_run(self, run_id: str) -> None:
        answer = self.http.patch(f"{self.dag}/dagRuns/{run_id}", json={"state": "failed"})
        assert answer.status_code == 200, answer.text

    def fail_task(self, run_id: str, task: str) -> None:
        answer = self.http.patch(
            f"{self.dag}/dagRuns/{run_id}/taskInstances/{task}",
            json={"new_state": "failed", "include_downstream": False},
        )
        assert answer.status_code == 200, answer.text

    def clear(self, run_id: str, *tasks: str) -> None:
        """Clear the run, or only these tasks and what comes after them."""
        some = {"task_ids": list(tasks), "include_downstream": True} if tasks else {}
        answer = self.http.post(
            f"{self.dag}/clearTaskInstances",
            json={"dry_run": False, "dag_run_id": run_id, "only_failed": False, "reset_dag_runs": True, **some},
        )
        assert answer.status_code == 200, answer.text

    def trigger(self, conf: dict[str, Any]) -> httpx.Response:
        return self.http.post(f"{self.dag}/dagRuns", json={"logical_date": None, "conf": conf})

    def log(self, run_id: str, task: str, try_number: int = 1) -> str:
        """The lines of a task's log."""
        answer = self.http.get(
            f"{self.dag}/dagRuns/{run_id}/taskInstances/{task}/logs/{try_number}", params={"full_content": True}
        )
        answer.raise_for_status()
        return "\n".join(str(line.get("event", line)) for line in answer.json()["content"] if isinstance(line, dict))

    def result(self, run_id: str, task: str) -> dict[str, Any]:
        answer = self.http.get(
            f"{self.dag}/dagRuns/{run_id}/taskInstances/{task}/xcomEntries/return_value",
            params={"deserialize": False, "stringify": False},
        )
        answer.raise_for_status()
        value = answer.json()["value"]
        found: dict[str, Any] = json.loads(value) if isinstance(value, str) else value
        return found
