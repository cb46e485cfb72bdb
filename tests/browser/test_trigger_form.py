"""Airflow's UI as its user meets it: a job started from the trigger form, and what its pages then tell."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from airflow_prominence.dags.names import JOB_DAG_ID
from tests.browser.airflow_ui import AirflowUi, Refused, run_page
from tests.integration.airflows import Airflow
from tests.integration.stacks import Stack, until

PHASES = ["begin", "provision", "stage_in", "run", "stage_out", "outcome", "release"]


def document(stack: Stack, cmd: str = "true", **more: Any) -> dict[str, Any]:
    task = {"image": stack.image, "runtime": "singularity", "cmd": cmd}
    return {"resources": {"cpus": 1, "memory": 1, "disk": 1}, "tasks": [task], **more}


def counts(stack: Stack) -> tuple[Any, ...]:
    """How many jobs and how many runs of jobs there are."""
    [found] = stack.psql(
        "SELECT (SELECT count(*) FROM prominence_job), (SELECT count(*) FROM dag_run WHERE dag_id = %s)", JOB_DAG_ID
    )
    return found


@dataclass(frozen=True)
class Triggered:
    """A run started from the form, over."""

    run: str
    state: str
    job: int


@pytest.fixture(scope="module")
def triggered(stack: Stack, ui: AirflowUi, airflow: Airflow) -> Triggered:
    wanted = document(stack, "sh -c 'echo from the form; exit 0'", name="from the form", labels={"way": "form"})
    ui.form(JOB_DAG_ID)
    ready, text = ui.paste(json.dumps(wanted))
    assert ready, text
    run = ui.press_trigger()
    state = airflow.ended(run)
    [(job,)] = stack.psql("SELECT id FROM prominence_job WHERE run_id = %s", run)
    return Triggered(run, state, job)


def test_the_form_says_what_to_do(ui: AirflowUi) -> None:
    text = ui.form(JOB_DAG_ID)
    assert "Paste the document of the job here, for example" in text
    assert "Set by the REST interface" in text, "what nobody need fill in stands apart"


def test_a_job_started_from_the_form_is_its_users(stack: Stack, triggered: Triggered) -> None:
    """Seen over REST by whoever pressed the button, with Airflow's own token, and by nobody else."""
    assert triggered.state == "success"
    with stack.airflow_client(stack.env["AIRFLOW_USER"]) as http:
        [job] = http.get(f"{stack.url}/jobs/{triggered.job}").json()
        assert (job["name"], job["status"], job["labels"]) == ("from the form", "completed", {"way": "form"})
        assert [task["exitCode"] for task in job["execution"]["tasks"]] == [0]
        assert http.get(f"{stack.url}/jobs/{triggered.job}/stdout").text == "from the form\n"
    with stack.client() as demo:
        assert demo.get(f"/jobs/{triggered.job}").json() == []


def test_the_grid_shows_the_phases(ui: AirflowUi, triggered: Triggered) -> None:
    squares = ui.squares(run_page(JOB_DAG_ID, triggered.run, view="grid"), triggered.run)
    assert list(squares) == PHASES
    assert all("State: Success" in told for told in squares.values()), squares


def test_the_graph_shows_the_phases(ui: AirflowUi, triggered: Triggered) -> None:
    boxes = ui.nodes(run_page(JOB_DAG_ID, triggered.run, view="graph"))
    assert {name: state for name, _, state in boxes} == dict.fromkeys(PHASES, "success")


def test_the_log_of_run_tells_its_story(ui: AirflowUi, stack: Stack, triggered: Triggered) -> None:
    text = ui.text(run_page(JOB_DAG_ID, triggered.run, "run", "grid", "is completed (exit code 0)"))
    told = [line.partition(" INFO - ")[2] for line in text.splitlines() if " INFO - " in line]
    story = [
        f"Job {triggered.job} (from the form) of {stack.env['AIRFLOW_USER']}, at ",
        f"Task 0: image {stack.image} ",
        "Running",
        "Task 0 ended with exit code 0 in ",
        "Job ended as completed",
    ]
    found = [next((index for index, line in enumerate(told) if line.startswith(start)), -1) for start in story]
    assert -1 not in found, text
    assert found == sorted(found), text


# -- what is wrong in the form -----------------------------------------------------------------------------------------


def test_what_is_no_json_cannot_be_sent(ui: AirflowUi) -> None:
    ui.form(JOB_DAG_ID)
    ready, text = ui.paste('{"resources": {"cpus": 1')
    assert not ready
    assert "SyntaxError" in text


def test_a_refusal_is_short_and_the_form_can_be_sent_again(stack: Stack, ui: AirflowUi) -> None:
    before = counts(stack)
    ui.form(JOB_DAG_ID)
    assert ui.paste(json.dumps(document(stack, resuorces={})))[0]
    with pytest.raises(Refused) as refused:
        ui.press_trigger()
    told = str(refused.value)
    assert "job: Additional properties are not allowed ('resuorces' was unexpected)" in told
    assert len(told.splitlines()) < 40, told
    assert counts(stack) == before, "nothing was made of it"

    assert ui.paste(json.dumps(document(stack)))[0]
    ui.press_trigger()
    until(lambda: counts(stack) == tuple(count + 1 for count in before), 60, what="one run and one job")


@pytest.fixture(scope="module")
def failed(stack: Stack, ui: AirflowUi, airflow: Airflow) -> dict[str, str]:
    """Runs of what only the API sees to be wrong, by what was in the form; no job was made of any."""
    before = counts(stack)
    sidecar = document(stack)
    sidecar["tasks"][0]["type"] = "sidecar"
    runs = {}
    for name, text in {"only a sidecar": json.dumps(sidecar), "nothing": ""}.items():
        ui.form(JOB_DAG_ID)
        if text:
            ui.paste(text)
        runs[name] = ui.press_trigger()
    assert {airflow.ended(run) for run in runs.values()} == {"failed"}
    assert counts(stack) == (before[0], before[1] + len(runs))
    return runs


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("only a sidecar", "job.tasks: must hold a task that is not a sidecar"),
        ("nothing", "job: is missing"),
    ],
)
def test_the_log_says_what_is_wrong(ui: AirflowUi, failed: dict[str, str], typed: str, sentence: str) -> None:
    ui.text(run_page(JOB_DAG_ID, failed[typed], "provision", "grid", sentence))


def test_the_grid_of_a_failed_run(ui: AirflowUi, failed: dict[str, str]) -> None:
    run = failed["nothing"]
    squares = ui.squares(run_page(JOB_DAG_ID, run, view="grid"), run)
    assert "State: Failed" in squares["provision"]
    assert "State: Upstream Failed" in squares["run"]
    assert "State: Failed" in squares["outcome"]
