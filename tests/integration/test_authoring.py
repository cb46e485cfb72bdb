"""DAGs that people write: the examples as they are shipped, run on the stack by its scheduler and its workers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.stacks import Stack, until

EXAMPLES = Path(__file__).parents[2] / "examples"


class Written:
    """A DAG of a file in the stack's folder, and a user of Airflow who runs it."""

    def __init__(self, http: httpx.Client, dag_id: str) -> None:
        self.http = http
        self.dag_id = dag_id
        self.path = f"/api/v2/dags/{dag_id}"

    def known(self) -> None:
        """Wait until Airflow has read the file, and let it run."""
        faults = lambda: self.http.get("/api/v2/importErrors").json()["import_errors"]  # noqa: E731

        def there() -> bool:
            assert not faults(), faults()
            return self.http.get(self.path).status_code == 200

        until(there, 90, 0.5, f"{self.dag_id} is known")
        self.http.patch(self.path, json={"is_paused": False}).raise_for_status()

    def trigger(self, **conf: Any) -> str:
        answer = self.http.post(f"{self.path}/dagRuns", json={"logical_date": None, "conf": conf})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["dag_run_id"])

    def state(self, run: str) -> str:
        return str(self.http.get(f"{self.path}/dagRuns/{run}").json()["state"])

    def tasks(self, run: str) -> list[dict[str, Any]]:
        answer = self.http.get(f"{self.path}/dagRuns/{run}/taskInstances")
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()["task_instances"]
        return found

    def states(self, run: str) -> dict[str, str | None]:
        """Of tasks that are not mapped."""
        return {ti["task_id"]: ti["state"] for ti in self.tasks(run)}

    def ended(self, run: str, seconds: float = 180) -> str:
        def ask() -> str:
            state = self.state(run)
            return state if state in ("success", "failed") else ""

        return until(ask, seconds, 0.5, f"run {run} ends: {self.states(run)}")

    def xcom(self, run: str, task: str, key: str = "return_value", map_index: int = -1) -> Any:
        answer = self.http.get(
            f"{self.path}/dagRuns/{run}/taskInstances/{task}/xcomEntries/{key}",
            params={"map_index": map_index, "deserialize": True, "stringify": False},
        )
        answer.raise_for_status()
        return answer.json()["value"]


@pytest.fixture
def write(stack: Stack) -> Iterator[Callable[[str, str], Written]]:
    """Put a file into the stack's folder of DAGs; returns its DAG, which goes at the end."""
    written: list[Path] = []
    with stack.airflow_client() as http:

        def make(text: str, dag_id: str) -> Written:
            file = stack.places.dags / f"{dag_id}.py"
            file.write_text(text, encoding="utf-8")
            file.chmod(0o644)
            written.append(file)
            dag = Written(http, dag_id)
            dag.known()
            return dag

        yield make
        for file in written:
            file.unlink()
            shutil.rmtree(file.parent / "__pycache__", ignore_errors=True)


def test_the_example_of_jobs_in_tasks(stack: Stack, write: Callable[[str, str], Written]) -> None:
    dag = write((EXAMPLES / "prominence_example_tasks.py").read_text("utf-8"), "prominence_example_tasks")
    run = dag.trigger(image=stack.image, digits=12)
    assert dag.ended(run) == "success", dag.states(run)
    made = dag.xcom(run, "write")
    assert (made["status"], made["exit_codes"], made["name"]) == ("completed", [0], "write-12")
    [output] = made["outputs"]
    assert (output["file"], output["size"]) == ("result.txt", 9 * 2 + 3 * 3)
    assert dag.xcom(run, "write", "exit_codes") == [0]
    # each index is a job of its own
    squares = [dag.xcom(run, "squares", map_index=index) for index in range(2)]
    assert [job["name"] for job in squares] == ["square-2", "square-3"]
    assert len({job["job"] for job in squares}) == 2
    assert dag.xcom(run, "again")["job"] == made["job"]
    # the output is an event of the Asset
    events = dag.http.get("/api/v2/assets/events", params={"source_dag_id": dag.dag_id}).json()["asset_events"]
    [extra] = [event["extra"] for event in events if event["source_run_id"] == run]
    assert (extra["job"], extra["size"], extra["key"]) == (made["job"], output["size"], output["key"])
    # whose jobs they are: who pressed the button
    [[owner]] = stack.psql("SELECT owner FROM prominence_job WHERE id = %s", made["job"])
    assert owner == "admin"
