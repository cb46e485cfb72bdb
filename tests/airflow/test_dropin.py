"""Files dropped into the folder of documents: DAGs in Airflow, and their runs are workflows over REST too."""

from __future__ import annotations

import datetime as dt
import json
import os
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from airflow_prominence.standalone import secretfiles
from tests.integration.stacks import Stack, until

Drop = Callable[[str, str], Path]

FLOW = """\
# Two jobs, one after the other
name: greetings
labels: {{kind: test}}
airflow:
  owner: demo
  description: Says hello.
  tags: [dropped]
  params:
    who: world
    count: 3
jobs:
- name: first
  resources: {{cpus: 1, memory: 1, disk: 1}}
  tasks:
  - image: {image}
    runtime: singularity
    cmd: sh -c "echo hello $who $count on $ds at $logical_date; echo $$PROMINENCE_PARAMETER_who"
- name: second
  resources: {{cpus: 1, memory: 1, disk: 1}}
  tasks:
  - image: {image}
    runtime: singularity
    cmd: echo $who again
dependencies: {{first: [second]}}
"""


@pytest.fixture
def drop(stack: Stack) -> Iterator[Drop]:
    """Put a file into the folder as a whole; what was put there is taken away at the end."""
    dropped: list[Path] = []

    def put(name: str, text: str) -> Path:
        path = stack.places.documents / name
        new = path.with_name(f".{name}.new")
        new.write_text(text, encoding="utf-8")
        os.replace(new, path)
        dropped.append(path)
        return path

    yield put
    for path in dropped:
        path.unlink(missing_ok=True)
    assert stack.run_airflow("prominence", "reparse").code == 0


@pytest.fixture(scope="module")
def admin(stack: Stack) -> Iterator[httpx.Client]:
    with stack.airflow_client() as http:
        yield http


def dag(admin: httpx.Client, dag_id: str, seconds: float = 90) -> dict[str, Any]:
    """The DAG as Airflow shows it, when it is there."""

    def ask() -> dict[str, Any] | None:
        answer = admin.get(f"/api/v2/dags/{dag_id}/details")
        return answer.json() if answer.status_code == 200 and not answer.json()["is_stale"] else None

    found = until(ask, seconds, 0.2, f"DAG {dag_id} is there: {import_errors(admin)}")
    assert found is not None
    return found


def import_errors(admin: httpx.Client) -> dict[str, str]:
    errors = admin.get("/api/v2/importErrors", params={"limit": 100}).json()["import_errors"]
    return {error["filename"]: error["stack_trace"] for error in errors if error["bundle_name"] == "documents"}


def trigger(http: httpx.Client, dag_id: str, conf: dict[str, Any], at: str | None = None) -> str:
    answer = http.post(f"/api/v2/dags/{dag_id}/dagRuns", json={"logical_date": at, "conf": conf})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["dag_run_id"])


def run_ended(admin: httpx.Client, dag_id: str, run_id: str) -> str:
    path = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id)}"

    def ask() -> str:
        state = str(admin.get(path).json()["state"])
        return state if state in {"success", "failed"} else ""

    return until(ask, 180, 0.5, f"run {run_id} ends: {admin.get(f'{path}/taskInstances').text[:2000]}")


def workflows(stack: Stack, name: str, token: str | None = None) -> list[dict[str, Any]]:
    with stack.client(token) as client:
        answer = client.get("/workflows", params={"all": "true"})
    assert answer.status_code == 200, answer.text
    return [found for found in answer.json() if found["name"] == name]


def output(stack: Stack, workflow: int, job: str, token: str | None = None) -> str:
    with stack.client(token) as client:
        answer = client.get(f"/workflows/{workflow}/{job}/stdout")
    assert answer.status_code == 200, answer.text
    return answer.text


def test_a_triggered_run_is_a_workflow_of_who_pressed(stack: Stack, admin: httpx.Client, drop: Drop) -> None:
    text = FLOW.format(image=stack.image)
    drop("greetings.yaml", text)
    shown = dag(admin, "greetings")
    assert shown["description"] == "Says hello."
    assert {"dropped", "greetings"} <= {tag["name"] for tag in shown["tags"]}
    assert shown["owners"] == ["demo"]
    assert set(shown["params"]) == {"who", "count"}
    source = admin.get("/api/v2/dagSources/greetings", headers={"Accept": "application/json"}).json()["content"]
    assert text in source
    with stack.airflow_client("demo2") as pressed:
        run_id = trigger(pressed, "greetings", {"who": "you $count"}, "2026-03-04T05:06:07Z")
    assert run_ended(admin, "greetings", run_id) == "success"
    (found,) = workflows(stack, "greetings", stack.other_token)
    assert found["status"] == "completed"
    assert workflows(stack, "greetings") == []
    # What is put in is not read again by us; the job's own shell does what shells do
    assert output(stack, found["id"], "first", stack.other_token) == (
        "hello you 3 on 2026-03-04 at 2026-03-04T05:06:07+00:00\nyou $count\n"
    )
    assert output(stack, found["id"], "second", stack.other_token) == "you $count again\n"


def test_a_broken_file_names_its_line_and_harms_no_other(stack: Stack, admin: httpx.Client, drop: Drop) -> None:
    good = json.dumps(
        {
            "airflow": {"owner": "demo"},
            "resources": {"cpus": 1, "memory": 1},
            "tasks": [{"image": stack.image, "runtime": "singularity", "cmd": "echo fine"}],
        }
    )
    drop("fine-one.json", good)
    broken = FLOW.format(image=stack.image).replace("cpus: 1", "cpus: 0", 1)
    line = broken.split("\n").index("  resources: {cpus: 0, memory: 1, disk: 1}") + 1
    drop("bad-one.yaml", broken)
    dag(admin, "fine-one")
    said = until(lambda: import_errors(admin).get("bad-one.yaml.py"), 90, 0.2, "the import error is there")
    assert said is not None
    assert f"bad-one.yaml, line {line}: jobs[0].resources.cpus: must be at least 1" in said
    assert set(import_errors(admin)) == {"bad-one.yaml.py"}
    run_id = trigger(admin, "fine-one", {})
    assert run_ended(admin, "fine-one", run_id) == "success"
    # Mended, it is a DAG, and the error is gone
    drop("bad-one.yaml", broken.replace("cpus: 0", "cpus: 1"))
    dag(admin, "bad-one")
    until(lambda: not import_errors(admin), 30, 0.2, "the import error is gone")


def test_scheduled_runs_catch_up_each_with_its_date(stack: Stack, admin: httpx.Client, drop: Drop) -> None:
    now = dt.datetime.now(dt.timezone.utc)
    days = [(now - dt.timedelta(days=ago)).date().isoformat() for ago in (3, 2, 1)]
    drop(
        "nightly.yaml",
        textwrap.dedent(f"""\
            airflow:
              owner: demo2
              schedule: "@daily"
              start_date: {days[0]}
              end_date: {days[-1]}
              catchup: true
            name: nightly
            jobs:
            - name: count
              resources: {{cpus: 1, memory: 1, disk: 1}}
              tasks:
              - image: {stack.image}
                runtime: singularity
                cmd: echo $ds
            """),
    )
    dag(admin, "nightly")

    def ended() -> list[dict[str, Any]] | None:
        found = workflows(stack, "nightly", stack.other_token)
        return found if len(found) >= 3 and all(flow["status"] == "completed" for flow in found) else None

    found = until(ended, 180, 1, "three workflows are completed")
    assert found is not None
    assert sorted(output(stack, flow["id"], "count", stack.other_token).strip() for flow in found) == days
    assert workflows(stack, "nightly") == []


def test_reparse_finds_a_new_file_and_misses_a_removed_one(stack: Stack, admin: httpx.Client, drop: Drop) -> None:
    path = drop("sudden.yaml", FLOW.format(image=stack.image))
    assert stack.run_airflow("prominence", "reparse").code == 0
    # Two seconds on an idle machine; the tests' own is anything but idle
    dag(admin, "sudden", 20)
    path.unlink()
    assert stack.run_airflow("prominence", "reparse").code == 0
    until(lambda: admin.get("/api/v2/dags/sudden/details").json().get("is_stale", True), 20, what="the DAG is stale")


def test_a_run_with_impossible_values_fails_with_a_sentence(stack: Stack, admin: httpx.Client, drop: Drop) -> None:
    drop(
        "paths.json",
        json.dumps(
            {
                "airflow": {"owner": "demo", "params": {"name": "out"}},
                "name": "paths",
                "resources": {"cpus": 1, "memory": 1},
                "tasks": [{"image": stack.image, "runtime": "singularity", "cmd": "touch out"}],
                "outputFiles": ["$name"],
            }
        ),
    )
    dag(admin, "paths")
    run_id = trigger(admin, "paths", {"name": "../x"})
    assert run_ended(admin, "paths", run_id) == "failed"
    assert workflows(stack, "paths") == []


def test_a_sweep_with_parameters_that_is_late(stack: Stack, admin: httpx.Client, drop: Drop) -> None:
    drop(
        "sleepy.yaml",
        textwrap.dedent(f"""\
            airflow: {{owner: demo, deadline: 1, params: {{prefix: a}}}}
            name: sleepy
            jobs:
            - name: point
              resources: {{cpus: 1, memory: 1, disk: 1}}
              tasks:
              - image: {stack.image}
                runtime: singularity
                cmd: sh -c "sleep 5; echo $prefix-$x $PROMINENCE_PARAMETER_prefix $PROMINENCE_PARAMETER_x"
            factories:
            - {{name: f, type: zip, jobs: [point], parameters: [{{name: x, values: [1, 2]}}]}}
            """),
    )
    dag(admin, "sleepy")
    run_id = trigger(admin, "sleepy", {"prefix": "$x"})
    said = f"Run {run_id} of DAG sleepy is late: it was due at"
    log = stack.places.logs / "triggerer.log"
    until(lambda: said in log.read_text(errors="replace"), 60, 0.5, "the log says that the run is late")
    assert run_ended(admin, "sleepy", run_id) == "success"
    token = stack.run_airflow("prominence", "token", secretfiles.ADMIN).stdout.strip()
    (found,) = workflows(stack, "sleepy", token)
    for instance, x in enumerate("12"):
        # The value is a text for its factory too, but the job's shell knows no x
        assert output(stack, found["id"], f"point/{instance}", token) == f"-{x} $x {x}\n"


def test_what_runs_while_its_file_goes_can_be_deleted(stack: Stack, admin: httpx.Client, drop: Drop) -> None:
    resources = {"cpus": 1, "memory": 1, "disk": 1}
    document = {
        "airflow": {"owner": "demo"},
        "name": "orphan",
        "resources": resources,
        "tasks": [{"image": stack.image, "runtime": "singularity", "cmd": "sleep 300"}],
    }
    path = drop("orphan.json", json.dumps(document))
    dag(admin, "orphan")
    with stack.airflow_client("demo") as pressed:
        trigger(pressed, "orphan", {})
    found = until(lambda: workflows(stack, "orphan"), 60, 0.5, "the workflow is there")
    workflow = found[0]["id"]

    def phases() -> list[tuple[Any, ...]]:
        return stack.psql("SELECT status, released_at IS NOT NULL FROM prominence_job WHERE workflow_id = %s", workflow)

    until(lambda: phases() == [("running", False)], 60, 0.5, "the job runs")
    path.unlink()
    until(lambda: admin.get("/api/v2/dags/orphan/details").json().get("is_stale", True), 60, what="the DAG is stale")
    with stack.client() as client:
        assert client.delete(f"/workflows/{workflow}").status_code == 200
    # Its node is given back, though Airflow drives nothing of it any more
    until(lambda: phases() == [("deleted", True)], 60, 0.5, f"the job has ended: {phases()}")
    assert workflows(stack, "orphan")[0]["status"] == "deleted"
