"""From a workflow to the groups of its DAG."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_prominence.dags.plan import Plan, plan_of
from airflow_prominence.documents import parse_workflow


def job(name: str, **changes: Any) -> dict[str, Any]:
    resources = {"cpus": 1, "memory": 1, "disk": 1}
    return {"name": name, "resources": resources, "tasks": [{"image": "busybox", "cmd": "date"}], **changes}


def plan(*jobs: dict[str, Any], counts: dict[str, int] | None = None, **more: Any) -> Plan:
    return plan_of(parse_workflow({"name": "w", "jobs": list(jobs), **more}), counts)


def repeat(name: str, number: int) -> dict[str, Any]:
    return {"name": name, "type": "repeat", "jobs": [name], "number": number}


def test_a_job_is_a_group_of_the_phases_that_it_needs() -> None:
    made = plan(job("a"), job("b", inputs=[{"filename": "f", "content": ""}]), job("c", outputFiles=["x"]))
    shown = [(group.id, group.form, group.stages_in, group.stages_out, group.tasks) for group in made.groups]
    assert shown == [
        ("a", "phases", False, False, 4),
        ("b", "phases", True, False, 5),
        ("c", "phases", False, True, 5),
    ]


def test_parents_come_first_though_the_document_names_them_last() -> None:
    made = plan(job("c"), job("b"), job("a"), dependencies={"a": ["b"], "b": ["c"]})
    assert [(group.id, group.parents) for group in made.groups] == [("a", ()), ("b", ("a",)), ("c", ("b",))]


@pytest.mark.parametrize(("number", "form"), [(24, "phases"), (26, "compact")])
def test_large_workflows_are_compact(number: int, form: str) -> None:
    made = plan(*(job(f"j{index}") for index in range(number)))
    assert {group.form for group in made.groups} == {form}


@pytest.mark.parametrize("form", ["phases", "compact"])
def test_a_form_may_be_asked_for(form: str) -> None:
    jobs = [job(f"j{index}") for index in range(60)]
    assert {group.form for group in plan(*jobs, form=form).groups} == {form}
    assert {group.form for group in plan(job("a"), form=form).groups} == {form}


@pytest.mark.parametrize(("number", "chunks"), [(1, 1), (40, 40), (41, 40), (10_000, 40)])
def test_a_factory_is_an_array(number: int, chunks: int) -> None:
    [group] = plan(job("a"), factories=[repeat("a", number)]).groups
    assert (group.form, group.jobs, group.chunks, group.tasks) == ("array", number, chunks, chunks)


def test_names_become_ids_that_airflow_takes_and_stay_different() -> None:
    made = plan(job("step 1"), job("step.1"), job("step_1"), job("outcome"), job("Step_1"), job("- -"), job("x" * 300))
    ids = [group.id for group in made.groups]
    assert ids[:6] == ["step_1", "step_1-2", "step_1-3", "outcome-2", "Step_1-4", "job"]
    assert ids[6] == "x" * 100
    assert [group.member for group in made.groups][:3] == ["step 1", "step.1", "step_1"]


def test_what_a_rerun_keeps_is_left_out() -> None:
    chain = {"dependencies": {"a": ["b"], "b": ["c"]}, "factories": [repeat("b", 10)]}
    made = plan(job("a"), job("b"), job("c"), counts={"a": 0, "b": 3, "c": 1}, **chain)
    assert [(group.id, group.jobs, group.parents) for group in made.groups] == [("b", 3, ()), ("c", None, ("b",))]
    with pytest.raises(KeyError):
        made.group_of("a")
