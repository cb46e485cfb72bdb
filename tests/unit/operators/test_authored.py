"""What people use who write DAGs: refusals as the file is read, documents, results, Assets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.sdk import DAG, Asset
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred

from airflow_prominence import decorators, sensors
from airflow_prominence.decorators import completed, prominence_task
from airflow_prominence.operators import JobOperator
from airflow_prominence.operators.authored import document_text, output_of
from airflow_prominence.sensors import JobSensor, WorkflowSensor
from airflow_prominence.triggers.look import LookTrigger
from airflow_prominence.triggers.phase import PhaseTrigger

JOB: dict[str, Any] = {
    "name": "hello",
    "resources": {"cpus": 1, "memory": 1, "disk": 1},
    "tasks": [{"image": "busybox", "runtime": "singularity", "cmd": "true"}],
}


class TaskInstance:
    """Where a task pushes to."""

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


def _with_token() -> dict[str, Any]:
    credential = {"imagePullCredential": {"username": "me", "token": "hush"}}
    return {**JOB, "tasks": [{**JOB["tasks"][0], **credential}]}


def test_the_public_surface() -> None:
    assert decorators.__all__ == ["prominence_task"]
    assert sensors.__all__ == ["JobSensor", "WorkflowSensor"]


def test_templates_are_looked_for_in_the_document_only() -> None:
    assert JobOperator.template_fields == ("job",)
    assert JobSensor.template_fields == ("job_id",)
    assert WorkflowSensor.template_fields == ("workflow_id",)


def test_a_secret_is_refused_as_the_file_is_read_and_never_shown() -> None:
    with pytest.raises(ValueError, match=r"job.tasks\[0\].imagePullCredential.\w+: .* Airflow connection") as refused:
        JobOperator(task_id="t", job=_with_token())
    assert "hush" not in str(refused.value)


def test_a_secret_that_a_template_brings_is_refused_before_it_leaves_the_worker() -> None:
    with pytest.raises(AirflowFailException, match="is a secret") as refused:
        document_text(json.dumps(_with_token()))
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("job", [None, 3, ["a"]])
def test_what_is_no_document_is_refused_as_the_file_is_read(job: Any) -> None:
    with pytest.raises(TypeError, match="job: must be a job document"):
        JobOperator(task_id="t", job=job)


@pytest.mark.parametrize("job", ["no JSON", "[1]", "null"])
def test_what_a_template_makes_must_be_a_document(job: str) -> None:
    with pytest.raises(AirflowFailException, match=r"^job: "):
        document_text(job)


def test_a_job_is_handed_to_its_trigger_as_text() -> None:
    with pytest.raises(TaskDeferred) as deferred:
        JobOperator(task_id="t", job=JOB).execute({})
    trigger = deferred.value.trigger
    assert isinstance(trigger, PhaseTrigger)
    assert trigger.serialize()[1] == {"phase": "job", "document": json.dumps(JOB), "to_worker": True}
    assert deferred.value.method_name == "conclude"


def _event(end: str, **more: Any) -> dict[str, Any]:
    return {"phase": "job", "end": end, "message": "Job 7 ended.", "job": 7, "exit_codes": [1], "outputs": [], **more}


def test_a_failed_job_fails_its_task_and_leaves_its_exit_codes() -> None:
    ti = TaskInstance()
    with pytest.raises(AirflowException, match="Job 7 ended") as failed:
        JobOperator(task_id="t", job=JOB).conclude({"ti": ti}, _event("failed"))  # type: ignore[typeddict-item]
    assert not isinstance(failed.value, AirflowFailException)
    assert ti.pushed["exit_codes"] == [1]
    assert ti.pushed["return_value"]["job"] == 7


def test_a_refused_document_is_not_tried_again() -> None:
    event = {"phase": "job", "end": "failed", "message": "job.tasks: is missing", "outputs": []}
    with pytest.raises(AirflowFailException, match=r"job\.tasks: is missing"):
        JobOperator(task_id="t", job=JOB).conclude({"ti": TaskInstance()}, event)  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("asset", "file"),
    [
        (Asset("result.txt"), "result.txt"),
        (Asset("pi/result.txt"), "result.txt"),
        (Asset(name="pi", uri="s3://bucket/pi/result.txt"), "result.txt"),
        (Asset("s3://bucket/pi/folder.tgz"), "folder.tgz"),
        (Asset("result"), None),
    ],
)
def test_an_asset_stands_for_the_output_whose_name_it_ends_with(asset: Asset, file: str | None) -> None:
    outputs = [{"file": "result.txt", "size": 1}, {"file": "folder.tgz", "size": 2}]
    found = output_of(asset, outputs)
    assert (None if found is None else found["file"]) == file


def test_a_function_returns_a_command_words_or_keys() -> None:
    assert completed(JOB, "echo hi")["tasks"] == [{**JOB["tasks"][0], "cmd": "echo hi"}]
    assert completed(JOB, ["echo", "a b"])["tasks"][0]["cmd"] == "echo 'a b'"
    assert completed(JOB, {"name": "other"}) == {**JOB, "name": "other"}


@pytest.mark.parametrize("answer", [None, "", " ", [], [1], 3])
def test_anything_else_that_a_function_returns_is_refused(answer: Any) -> None:
    with pytest.raises(AirflowFailException, match="must return a command"):
        completed(JOB, answer)


def test_a_command_needs_one_task() -> None:
    with pytest.raises(AirflowFailException, match="exactly one task"):
        completed({**JOB, "tasks": []}, "echo")


def test_what_a_function_returns_is_data_in_which_nothing_is_rendered() -> None:
    with DAG("d"):

        @prominence_task(job=JOB)
        def write(word: str) -> str:
            return "echo {{ ti }} " + word

        operator = write("here").operator
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute({})
    trigger = deferred.value.trigger
    assert isinstance(trigger, PhaseTrigger)
    assert json.loads(trigger.document or "")["tasks"][0]["cmd"] == "echo {{ ti }} here"


def test_sensors_wait_in_the_triggerer() -> None:
    with pytest.raises(TaskDeferred) as deferred:
        JobSensor(task_id="t", job_id=" 7 ").execute({})
    assert isinstance(deferred.value.trigger, LookTrigger)
    assert deferred.value.trigger.serialize()[1] == {"job": 7}
    with pytest.raises(TaskDeferred) as deferred:
        WorkflowSensor(task_id="t", workflow_id=8).execute({})
    assert deferred.value.trigger.serialize()[1] == {"workflow": 8}


@pytest.mark.parametrize("value", ["", "None", "-1", True, "7.0", "9" * 19])
def test_a_sensor_needs_a_number(value: Any) -> None:
    with pytest.raises(AirflowFailException, match="job_id: must be the number"):
        JobSensor(task_id="t", job_id=value).execute({})


def test_a_sensor_fails_with_what_it_waits_for_unless_told_not_to() -> None:
    ended = {"job": 7, "success": False, "message": "Job 7 failed."}
    with pytest.raises(AirflowFailException, match="Job 7 failed"):
        JobSensor(task_id="t", job_id=7).ended({"ti": TaskInstance()}, ended)  # type: ignore[typeddict-item]
    assert JobSensor(task_id="t", job_id=7, fail_with_it=False).ended({}, ended) == ended
    with pytest.raises(AirflowFailException, match="not yours"):
        JobSensor(task_id="t", job_id=7, fail_with_it=False).ended({}, {"refused": "it is not yours"})
