"""A workflow started from the trigger form that takes any, and the DAG that is made of it, as the UI shows them."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from airflow_prominence.dags.names import WORKFLOW_DAG_ID
from tests.browser.airflow_ui import AirflowUi, Page, Refused, run_page
from tests.browser.test_trigger_form import document
from tests.integration.stacks import Stack, until

SENTENCE = "is failed: 1 of 4 jobs failed: right"


@dataclass(frozen=True)
class Triggered:
    """A workflow started from the form, over."""

    launcher: str
    """The run that the button has started."""
    dag: str
    run: str


@pytest.fixture(scope="module")
def triggered(stack: Stack, ui: AirflowUi) -> Triggered:
    commands = {"prepare": "true", "left": "true", "right": "false", "gather": "true"}
    jobs = [document(stack, cmd, name=name) for name, cmd in commands.items()]
    edges = {"prepare": ["left", "right"], "left": ["gather"], "right": ["gather"]}
    ui.form(WORKFLOW_DAG_ID)
    ready, text = ui.paste(json.dumps({"name": "scatter and gather", "jobs": jobs, "dependencies": edges}))
    assert ready, text
    launcher = ui.press_trigger()
    state = "SELECT state FROM dag_run WHERE run_id = %s AND state IN ('success', 'failed')"
    assert until(lambda: stack.psql(state, launcher), 180, 0.5, "the run ends") == [("failed",)]
    [(dag, run)] = stack.psql("SELECT dag_id, run_id FROM dag_run WHERE dag_id LIKE 'workflow-%%'")
    return Triggered(launcher, dag, run)


def test_the_log_says_which_dag_it_is_and_how_it_went(ui: AirflowUi, triggered: Triggered) -> None:
    text = ui.text(run_page(WORKFLOW_DAG_ID, triggered.launcher, "workflow", "grid", SENTENCE))
    assert f"is the run {triggered.run} of the DAG {triggered.dag}" in text


def test_the_dag_reads_like_the_workflow(ui: AirflowUi, stack: Stack, triggered: Triggered) -> None:
    """Its name as a tag, its owner, and its document under "Code"."""
    text = ui.text(Page(f"/dags/{triggered.dag}", until="scatter and gather"))
    assert f"Owner\n{stack.env['AIRFLOW_USER']}\n" in text
    ui.text(Page(f"/dags/{triggered.dag}/code", until='"prepare"'))


def test_the_graph_shows_jobs_and_what_became_of_them(ui: AirflowUi, triggered: Triggered) -> None:
    boxes = ui.nodes(run_page(triggered.dag, triggered.run, view="graph"))
    assert {box[0]: box[2] for box in boxes} == {
        "prepare": "success",
        "left": "success",
        "right": "failed",
        "gather": "upstream_failed",
        "outcome": "failed",
    }
    assert {box[0] for box in boxes if box[1] == "Task Group"} == {"prepare", "left", "right", "gather"}


def test_the_grid_shows_the_jobs(ui: AirflowUi, triggered: Triggered) -> None:
    squares = ui.squares(run_page(triggered.dag, triggered.run, view="grid"), triggered.run)
    assert set(squares) == {"prepare", "left", "right", "gather", "outcome"}
    assert "Failed" in squares["right"]


def test_a_refusal_is_short(ui: AirflowUi, stack: Stack) -> None:
    before = stack.psql("SELECT count(*) FROM prominence_workflow")
    ui.form(WORKFLOW_DAG_ID)
    assert ui.paste(json.dumps({"name": "bad", "jobs": [document(stack, resuorces={})]}))[0]
    with pytest.raises(Refused) as refused:
        ui.press_trigger()
    assert "('resuorces' was unexpected)" in str(refused.value)
    assert len(str(refused.value).splitlines()) < 40, refused.value
    assert stack.psql("SELECT count(*) FROM prominence_workflow") == before
