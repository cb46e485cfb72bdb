"""Workflows: from a submitted value to a Workflow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from airflow_prominence.documents.errors import DocumentError, path_of, quoted
from airflow_prominence.documents.factories import count_of, count_text, factories_of
from airflow_prominence.documents.jobs import job_of, notifications_of, placement_of
from airflow_prominence.documents.limits import DEFAULT_LIMITS, Limits
from airflow_prominence.documents.loading import check_values
from airflow_prominence.documents.model import Factory, Job, Workflow, WorkflowPolicies
from airflow_prominence.documents.schemas import check_schema
from airflow_prominence.documents.templates import check_template

_SHOWN_OF_A_CYCLE = 10
_LONGEST_NAME = 512


def parse_workflow(value: object, limits: Limits = DEFAULT_LIMITS) -> Workflow:
    """Check a workflow document and fill in its defaults, or raise DocumentError."""
    check_values(value)
    check_schema("workflow", value)
    assert isinstance(value, dict)
    names = _names(value["jobs"])
    policies = _policies_of(value.get("policies", {}))
    jobs = tuple(
        _with_policies(job_of(doc, ("jobs", index), limits), doc, policies) for index, doc in enumerate(value["jobs"])
    )
    dependencies = _dependencies(value.get("dependencies", {}), names)
    factories = factories_of(value, names, limits)
    workflow = Workflow(
        name=value.get("name", ""),
        jobs=jobs,
        labels=dict(value.get("labels", {})),
        dependencies=dependencies,
        factories=factories,
        policies=policies,
        notifications=notifications_of(value.get("notifications", [])),
        form=value.get("form"),
    )
    _check_count(workflow, limits)
    _check_full_names(workflow)
    factory_of = factory_of_job(workflow)
    for index, job in enumerate(jobs):
        if (factory := factory_of.get(job.name)) is not None:
            check_template(job, factory, ("jobs", index))
    return workflow


def factory_of_job(workflow: Workflow) -> Mapping[str, Factory]:
    """The factory of each job that has one: the last that lists it counts."""
    return {name: factory for factory in workflow.factories for name in factory.jobs}


def jobs_of_members(workflow: Workflow) -> dict[str, int | None]:
    """How many jobs each of the document's jobs becomes: None for one that no factory multiplies."""
    factories = factory_of_job(workflow)
    return {job.name: count_of(factories[job.name]) if job.name in factories else None for job in workflow.jobs}


def _names(docs: list[dict[str, Any]]) -> dict[str, int]:
    names: dict[str, int] = {}
    for index, doc in enumerate(docs):
        where = path_of(("jobs", index, "name"))
        name: str = doc.get("name", "")
        if not name.strip():
            raise DocumentError(where, "is missing: each job of a workflow needs a name")
        if "/" in name:
            raise DocumentError(where, "must not contain / in a workflow")
        if name in {".", ".."}:
            raise DocumentError(where, f"cannot be {quoted(name)}")
        if name in names:
            raise DocumentError(where, f"must be unique, and jobs[{names[name]}] has the same name (duplicate)")
        names[name] = index
    return names


def _policies_of(doc: dict[str, Any]) -> WorkflowPolicies:
    retries = doc.get("maximumRetries")
    return WorkflowPolicies(
        maximum_retries=None if retries is None else int(retries),
        maximum_reruns=int(doc.get("maximumReruns", 0)),
        leave_in_queue=doc.get("leaveInQueue", False),
        placement=placement_of(doc.get("placement")),
    )


def _with_policies(job: Job, doc: dict[str, Any], of_workflow: WorkflowPolicies) -> Job:
    """A workflow's placement replaces that of its jobs; its retries are for jobs that give none."""
    policies = job.policies
    if of_workflow.placement is not None:
        policies = replace(policies, placement=of_workflow.placement)
    if of_workflow.maximum_retries is not None and "maximumRetries" not in doc.get("policies", {}):
        policies = replace(policies, maximum_retries=of_workflow.maximum_retries)
    return job if policies is job.policies else replace(job, policies=policies)


def _dependencies(doc: dict[str, list[str]], names: Mapping[str, int]) -> tuple[tuple[str, str], ...]:
    pairs: dict[tuple[str, str], None] = {}
    for parent, children in doc.items():
        if parent not in names:
            raise DocumentError(path_of(("dependencies", parent)), "is an unknown parent: no job has this name")
        for index, child in enumerate(children):
            where = path_of(("dependencies", parent, index))
            if child not in names:
                raise DocumentError(where, f"is an unknown child: no job is named {quoted(child)}")
            if child == parent:
                raise DocumentError(where, "a job cannot depend on itself")
            pairs[parent, child] = None
    if cycle := _cycle(pairs):
        shown = cycle if len(cycle) <= _SHOWN_OF_A_CYCLE else [*cycle[: _SHOWN_OF_A_CYCLE - 1], "…", cycle[-1]]
        raise DocumentError("dependencies", f"must not form a cycle: {' -> '.join(shown)}")
    return tuple(pairs)


def _cycle(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """One cycle with its first name repeated at the end, or nothing."""
    parents: dict[str, set[str]] = {}
    children: dict[str, list[str]] = {}
    for parent, child in pairs:
        parents.setdefault(child, set()).add(parent)
        children.setdefault(parent, []).append(child)
    waiting = {name: len(above) for name, above in parents.items()}
    free = [name for name in children if name not in parents]
    while free:
        for child in children.get(free.pop(), ()):
            waiting[child] -= 1
            if not waiting[child]:
                del waiting[child]
                free.append(child)
    if not waiting:
        return []
    # Each name left waits for another that is left, so going up must come round
    name = next(iter(waiting))
    trail: dict[str, None] = {}
    while name not in trail:
        trail[name] = None
        name = next(parent for parent in sorted(parents[name]) if parent in waiting)
    walked = list(trail)
    return [name, *reversed(walked[walked.index(name) :])]


def _check_full_names(workflow: Workflow) -> None:
    """A job's name with the workflow's before it and its number behind it must be one that a job may have."""
    for index, (name, count) in enumerate(jobs_of_members(workflow).items()):
        last = "" if count is None else f"/{count - 1}"
        longest = len(f"{workflow.name}/{name}{last}")
        if longest > _LONGEST_NAME:
            sentence = f"is too long: with that of the workflow it makes a name of {longest} characters"
            raise DocumentError(path_of(("jobs", index, "name")), f"{sentence}, the limit is {_LONGEST_NAME}")


def _check_count(workflow: Workflow, limits: Limits) -> None:
    factories = factory_of_job(workflow)
    count = sum(count_of(factories[job.name]) if job.name in factories else 1 for job in workflow.jobs)
    if count > limits.max_jobs:
        sentence = f"are too many: {count_text(count)} with those of factories, and the limit is {limits.max_jobs}"
        raise DocumentError("jobs", sentence)
