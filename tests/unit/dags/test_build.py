"""From a plan to the DAG as scheduler and triggerer see it."""

from __future__ import annotations

import json
from typing import Any

from airflow.sdk import Param
from airflow.serialization.serialized_objects import DagSerialization

from airflow_prominence.dags.build import build_dag
from airflow_prominence.dags.plan import plan_of
from airflow_prominence.documents import parse_workflow
from tests.unit.dags.test_plan import job, repeat


def serialized(*jobs: dict[str, Any], build: dict[str, Any] | None = None, **more: Any) -> str:
    plan = plan_of(parse_workflow({"name": "w", "jobs": list(jobs), **more}))
    made = build_dag(plan, dag_id="workflow-1.w", owner="alice", **(build or {}))
    return json.dumps(DagSerialization.to_dict(made))


def dag(*jobs: dict[str, Any], **more: Any) -> Any:
    return DagSerialization.from_dict(json.loads(serialized(*jobs, **more)))


def edges(of: Any) -> dict[str, list[str]]:
    return {task.task_id: sorted(task.upstream_task_ids) for task in of.tasks}


def test_the_recipe_for_two_jobs() -> None:
    made = dag(job("a", outputFiles=["x"]), job("b"), dependencies={"a": ["b"]})
    assert edges(made) == {
        "a.begin": [],
        "a.provision": ["a.begin"],
        "a.run": ["a.provision"],
        "a.stage_out": ["a.run"],
        "a.release": ["a.begin", "a.stage_out"],
        # From both: a group's edge would take stage_out alone, a success after a failed run.
        "b.begin": ["a.run", "a.stage_out"],
        "b.provision": ["b.begin"],
        "b.run": ["b.provision"],
        "b.release": ["b.begin", "b.run"],
        "outcome": ["a.provision", "a.run", "a.stage_out", "b.provision", "b.run"],
    }
    rules = {task.task_id: str(task.trigger_rule) for task in made.tasks if str(task.trigger_rule) != "all_success"}
    teardown = "all_done_setup_success"
    assert rules == {"a.stage_out": "all_done", "a.release": teardown, "b.release": teardown, "outcome": teardown}
    assert [task.task_id for task in made.tasks if task.on_failure_fail_dagrun] == ["outcome"]


def test_compact_and_array() -> None:
    made = dag(
        job("a"), job("s"), job("z"), factories=[repeat("s", 50)], dependencies={"a": ["s"], "s": ["z"]}, form="compact"
    )
    assert edges(made) == {"a": [], "s": ["a"], "z": ["s"], "outcome": ["a", "s", "z"]}
    array = made.get_task("s")
    assert array.is_mapped
    assert array.expand_input.value["chunk"] == list(range(40))
    assert array.start_from_trigger


def test_no_task_needs_a_worker_and_none_knows_the_document() -> None:
    text = serialized(
        job("secretive", inputs=[{"filename": "f", "content": "c2VjcmV0"}]), job("s"), factories=[repeat("s", 2)]
    )
    for task in DagSerialization.from_dict(json.loads(text)).tasks:
        assert task.start_from_trigger or task.inherits_from_empty_operator, task.task_id
        assert task.retries == 0
    assert "c2VjcmV0" not in text


def test_the_dag_says_whose_it_is_and_what() -> None:
    made = dag(job("my job"), build={"description": "My sweep", "tags": ["alice", "a=b", "x" * 300]})
    assert made.task_dict["my_job.run"].owner == "alice"
    assert made.description == "My sweep"
    assert {"prominence", "alice", "a=b", "x" * 100} == set(made.tags)
    assert made.task_group.children["my_job"].group_display_name == "my job"


def test_a_document_may_be_embedded_for_runs_that_airflow_starts() -> None:
    document = {"name": "w", "jobs": [job("a")]}
    made = dag(job("a"), build={"document": document, "params": {"x": 1, "y": Param("a")}})
    assert json.loads(made.get_task("outcome").doc_json) == {
        "workflow": document,
        "owner": "alice",
        "params": {"x": 1, "y": "a"},
    }
