from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow.exceptions import ParamValidationError
from airflow.serialization.serialized_objects import DagSerialization
from jsonschema import Draft7Validator

from airflow_prominence.dags.names import SHIPPED_DAGS
from airflow_prominence.dags.params import param_schema
from airflow_prominence.dags.shared import prominence_job_dag, prominence_maintenance_dag

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def job() -> Any:
    """The DAG as scheduler and triggerer see it."""
    return DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(prominence_job_dag()))))


def test_the_recipe(job: Any) -> None:
    assert {task.task_id: sorted(task.upstream_task_ids) for task in job.tasks} == {
        "begin": [],
        "provision": ["begin"],
        "stage_in": ["provision"],
        "run": ["stage_in"],
        "stage_out": ["run"],
        "release": ["begin", "stage_out"],
        "outcome": ["provision", "run", "stage_in", "stage_out"],
    }
    assert {task.task_id: str(task.trigger_rule) for task in job.tasks} == {
        "begin": "all_success",
        "provision": "all_success",
        "stage_in": "all_success",
        "run": "all_success",
        "stage_out": "all_done",
        "release": "all_done_setup_success",
        "outcome": "all_done_setup_success",
    }
    assert [task.task_id for task in job.tasks if task.is_setup] == ["begin"]
    assert [task.task_id for task in job.tasks if task.is_teardown] == ["release", "outcome"]
    assert [task.task_id for task in job.tasks if task.on_failure_fail_dagrun] == ["outcome"]


def test_no_task_needs_a_worker(job: Any) -> None:
    for task in job.tasks:
        assert task.retries == 0
        if task.task_id == "begin":
            assert task.inherits_from_empty_operator
        else:
            assert task.start_from_trigger, task.task_id


def test_arguments_carry_the_phase_alone(job: Any) -> None:
    from airflow.serialization.decoders import smart_decode_trigger_kwargs

    for task in job.tasks:
        if task.task_id != "begin":
            assert task.start_trigger_args.trigger_cls == "airflow_prominence.triggers.phase.PhaseTrigger"
            assert smart_decode_trigger_kwargs(task.start_trigger_args.trigger_kwargs) == {"phase": task.task_id}


def test_the_dag_itself(job: Any) -> None:
    assert job.timetable.can_be_scheduled is False
    assert job.catchup is False
    assert job.max_active_runs >= 100_000
    assert job.max_active_tasks >= 100_000
    assert job.is_paused_upon_creation is False
    assert "prominence" in job.tags
    assert job.doc_md


def test_the_params_stand_in_the_dag_alone() -> None:
    """A copy in each task would be read by the triggerer for every trigger."""
    data = DagSerialization.to_dict(prominence_job_dag())["dag"]
    assert len(json.dumps(data)) < 32_000
    for task in data["tasks"]:
        assert not task["__var"].get("params")


def test_the_form_takes_a_job_or_nothing(job: Any) -> None:
    assert {name: job.params[name] for name in ("job", "job_id")} == {"job": None, "job_id": None}
    schema = param_schema("job")
    form = Draft7Validator(schema)
    for definition in schema["$defs"].values():
        Draft7Validator.check_schema(definition)
    assert schema["type"] == ["null", "object"], "what the form chooses the field by"
    good = {"resources": {"cpus": 1, "memory": 1, "disk": 1, "nodes": 1}, "tasks": [{"image": "busybox"}]}
    assert form.is_valid(None)
    assert form.is_valid(good)
    assert not form.is_valid("text")
    assert not form.is_valid({})
    assert not form.is_valid({**good, "unknown": 1})
    assert not form.is_valid({**good, "resources": {**good["resources"], "cpus": 0}})  # type: ignore[dict-item]
    assert not form.is_valid({**good, "tasks": [{"image": "busybox", "cmdd": "x"}]})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"resuorces": {}}, "Additional properties are not allowed ('resuorces' was unexpected)"),
        ({"tasks": [{"image": "x", "cmdd": "x"}]}, "Additional properties are not allowed ('cmdd' was unexpected)"),
        ({"tasks": ["busybox"]}, "'busybox' is not of type 'object'"),
        ({"tasks": [{}]}, "'image' is a required property"),
        ({"resources": "many"}, "'many' is not of type 'object'"),
        ({"resources": {"cpus": "1", "memory": 1}}, "'1' is not of type 'integer'"),
        ({"resources": {"memory": 1}}, "{'memory': 1} is not valid under any of the given schemas"),
        ({"policies": {"maximumRetries": -1}}, "-1 is less than the minimum of 0"),
    ],
)
def test_what_the_form_shows_of_a_refusal_can_be_read(job: Any, change: dict[str, Any], sentence: str) -> None:
    """Airflow shows with the sentence the whole schema that holds the keyword."""
    document = {"resources": {"cpus": 1, "memory": 1}, "tasks": [{"image": "busybox"}], **change}
    with pytest.raises(ParamValidationError) as refused:
        job.params.deep_merge({"job": document}).validate()
    lines = str(refused.value).splitlines()
    assert lines[0] == f"Invalid input for param job: {sentence}"
    assert len(lines) < 30, lines


def _good_job_documents() -> dict[str, dict[str, Any]]:
    """The corpus's valid jobs, but those with a secret in them."""
    good = {}
    for expected in sorted((ROOT / "tests/corpus").glob("*.expected.json")):
        told = json.loads(expected.read_text())
        path = expected.with_name(expected.name.replace(".expected", ""))
        if not told.get("valid") or told.get("kind") != "job":
            continue
        document = json.loads(path.read_text())
        if "imagePullCredential" not in path.read_text() and "storage" not in document:
            good[path.stem] = document
    return good


@pytest.mark.parametrize("name", _good_job_documents())
def test_the_form_refuses_no_good_document(name: str) -> None:
    """The API has the last word on a document; the form must not refuse what the API takes."""
    document = _good_job_documents()[name]
    assert [error.message for error in Draft7Validator(param_schema("job")).iter_errors(document)] == []


def test_the_form_has_no_place_for_secrets() -> None:
    text = json.dumps(param_schema("job")).lower()
    for word in ("password", "never shown again", "imagepullcredential"):
        assert word not in text
    task = {"image": "x", "imagePullCredential": {"username": "u", "token": "t"}}
    document = {"resources": {"cpus": 1, "memory": 1, "disk": 1, "nodes": 1}, "tasks": [task]}
    assert not Draft7Validator(param_schema("job")).is_valid(document)


def test_the_maintenance_dag() -> None:
    data = json.loads(json.dumps(DagSerialization.to_dict(prominence_maintenance_dag())))
    dag = DagSerialization.from_dict(data)
    [task] = dag.tasks
    assert task.start_from_trigger
    assert task.start_trigger_args.trigger_cls == "airflow_prominence.triggers.maintenance.MaintenanceTrigger"
    assert dag.max_active_runs == 1
    assert dag.catchup is False
    assert dag.is_paused_upon_creation is False
    assert str(dag.timetable.summary) == "0:01:00"


def test_the_drop_in_files_give_their_dags_to_the_dag_processor() -> None:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=str(ROOT / "dags"), bundle_name="dags-folder")
    assert bag.import_errors == {}
    assert sorted(bag.dags) == sorted(SHIPPED_DAGS)


def test_the_dag_file_is_cheap_to_parse() -> None:
    """Airflow parses it again after every task: it must not bring the API, the store or an HTTP client with it."""
    program = (
        "import sys, airflow.sdk; before = set(sys.modules); import airflow_prominence.dags.shared;"
        "print(' '.join(sorted(m for m in set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    brought = done.stdout.split()
    heavy = ("airflow_prominence.store", "airflow_prominence.api", "airflow_prominence.driver", "httpx", "fastapi")
    assert "airflow_prominence.dags.shared" in brought
    assert [name for name in brought if name.startswith(heavy)] == []
