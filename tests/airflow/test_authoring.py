"""DAGs that people write: the examples as they are shipped, run on the stack by its scheduler and its workers."""

from __future__ import annotations

import datetime as dt
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
        faults: list[Any] = []

        def there() -> bool:
            errors = self.http.get("/api/v2/importErrors").json()["import_errors"]
            # One of a file of this name that was taken away while it was read goes when this one is read.
            faults[:] = [error for error in errors if error["filename"] == f"{self.dag_id}.py"]
            return not faults and self.http.get(self.path).status_code == 200

        try:
            until(there, 90, 0.5, f"{self.dag_id} is known")
        except AssertionError:
            raise AssertionError(f"{self.dag_id} is not known: {faults}") from None
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
            # At once as a whole: the dag-processor may look at any moment.
            part = file.with_suffix(".part")
            part.write_text(text, encoding="utf-8")
            part.chmod(0o644)
            part.rename(file)
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


def _times(stack: Stack, job: int) -> dict[str, float]:
    """When each kind of event of a job first happened (epoch seconds)."""
    rows = stack.psql("SELECT kind, min(time) FROM prominence_event WHERE job_id = %s GROUP BY kind", job)
    return {str(kind): float(time) for kind, time in rows}


def _moment(text: str) -> float:
    return dt.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _gate(write: Callable[[str, str], Written]) -> Written:
    return write((EXAMPLES / "prominence_example_gate.py").read_text("utf-8"), "prominence_example_gate")


def test_a_task_between_two_phases_gates(stack: Stack, write: Callable[[str, str], Written]) -> None:
    dag = _gate(write)
    run = dag.trigger(image=stack.image, good=True)
    assert dag.ended(run) == "success", dag.states(run)
    tasks = {ti["task_id"]: ti for ti in dag.tasks(run)}
    assert {ti["state"] for ti in tasks.values()} == {"success"}
    made = dag.xcom(run, "work.stage_out")
    times = _times(stack, made["job"])
    # The gate runs when the input is there and before the first task of the job has started.
    began, ended = _moment(tasks["look"]["start_date"]), _moment(tasks["look"]["end_date"])
    assert times["stage_in"] < times["pulled"] < began < ended < times["running"]
    assert _moment(tasks["work.stage_in"]["end_date"]) <= began
    # so says the job itself, by the clock that its tasks see
    [output] = made["outputs"]
    [file] = stack.places.home.glob(f"objects/**/{output['file']}")
    assert int(file.read_text()) >= int(ended)
    assert times["stage_out"] >= _moment(tasks["work.stage_out"]["start_date"])
    assert dag.xcom(run, "work.run")["exit_codes"] == [0]
    assert dag.xcom(run, "tell") == f"began.txt has {output['size']} bytes"


def test_a_gate_that_fails_ends_the_job_and_gives_its_place_back(
    stack: Stack, write: Callable[[str, str], Written]
) -> None:
    dag = _gate(write)
    run = dag.trigger(image=stack.image, good=False)
    assert dag.ended(run) == "failed"
    states = dag.states(run)
    assert (states["look"], states["work.run"], states["work.end"]) == ("failed", "upstream_failed", "upstream_failed")
    assert (states["work.stage_out"], states["work.release"]) == ("skipped", "success")
    told = dag.xcom(run, "work.release")
    assert "was not let go on in Airflow: work.run is upstream_failed; its place is given back" in told["message"]
    job = told["job"]
    [[status, released]] = stack.psql("SELECT status, released_at FROM prominence_job WHERE id = %s", job)
    assert (status, released is not None) == ("failed", True)
    assert "running" not in _times(stack, job)
    assert stack.psql("SELECT id FROM prominence_lease WHERE job_id = %s AND state <> 'ended'", job) == []


def test_a_held_job_ends_with_its_run(stack: Stack, write: Callable[[str, str], Written]) -> None:
    text = (EXAMPLES / "prominence_example_gate.py").read_text("utf-8")
    slow = text.replace('if not (params or {})["good"]', "import time\n        time.sleep(600)\n        if True")
    assert slow != text
    dag = write(slow.replace("prominence_example_gate", "prominence_example_slow"), "prominence_example_slow")
    run = dag.trigger(image=stack.image)
    until(lambda: dag.states(run)["look"] == "running", 90, 0.5, f"look runs: {dag.states(run)}")
    job = dag.xcom(run, "work.stage_in")["job"]
    dag.http.patch(f"{dag.path}/dagRuns/{run}", json={"state": "failed"}).raise_for_status()

    def given_back() -> bool:
        [[released]] = stack.psql("SELECT released_at FROM prominence_job WHERE id = %s", job)
        return released is not None

    until(given_back, 120, 0.5, f"job {job} gives its place back")
    assert "running" not in _times(stack, job)


_RETRIED = """
import datetime as dt
from airflow.sdk import DAG, Param
from airflow_prominence.operators import JobOperator

with DAG("written_retried", schedule=None, params={"image": Param("x", type="string")}):
    JobOperator(
        task_id="work",
        retries=1,
        retry_delay=dt.timedelta(seconds=1),
        job={
            "name": "try-{{ ti.try_number }}",
            "resources": {"cpus": 1, "memory": 1, "disk": 1},
            "tasks": [{"image": "{{ params.image }}", "runtime": "singularity",
                       "cmd": "sh -c 'exit {{ 3 if ti.try_number == 1 else 0 }}'"}],
        },
    )
"""


def test_airflows_retries_run_one_job_after_the_other(stack: Stack, write: Callable[[str, str], Written]) -> None:
    dag = write(_RETRIED, "written_retried")
    run = dag.trigger(image=stack.image)
    assert dag.ended(run) == "success"
    [task] = dag.tasks(run)
    assert task["try_number"] == 2
    assert dag.xcom(run, "work")["name"] == "try-2"
    query = "SELECT name, status, started_at, ended_at FROM prominence_job WHERE run_id = %s ORDER BY id"
    first, second = stack.psql(query, run)
    assert [first[0], second[0]] == ["try-1", "try-2"]
    assert first[3] <= second[2]
