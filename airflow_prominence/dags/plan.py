"""What a workflow becomes as a DAG: its groups, their edges and their form. Pure; ``build`` makes the DAG of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from airflow_prominence.documents import Job, Workflow, jobs_of_members

Form = Literal["phases", "compact", "array"]

#: With more task instances a DAG's jobs become one task each: Airflow reads the whole DAG anew for every trigger.
MOST_TASKS_IN_PHASES = 100
#: A factory's jobs are shared out among at most so many tasks, each of which drives its share.
MOST_CHUNKS = 40

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST_GROUP = 100
# Task ids of the whole DAG, which no group may have.
_RESERVED = frozenset({"outcome"})


@dataclass(frozen=True, slots=True)
class Group:
    """A job of the document, or a factory's jobs, as a group or a task of the DAG.

    ``id`` is safe in Airflow, ``member`` the job's name in the document; ``jobs`` counts those of a factory and is
    None for a job without one. ``parents`` are ids of groups.
    """

    id: str
    member: str
    form: Form
    jobs: int | None
    stages_in: bool
    stages_out: bool
    parents: tuple[str, ...]

    @property
    def chunks(self) -> int:
        """How many tasks drive the group's jobs."""
        return 1 if self.jobs is None else min(self.jobs, MOST_CHUNKS)

    @property
    def tasks(self) -> int:
        """How many task instances it makes."""
        return self.chunks if self.form != "phases" else _tasks_in_phases(self.stages_in, self.stages_out)


@dataclass(frozen=True, slots=True)
class Plan:
    """The groups of a DAG, parents before their children."""

    groups: tuple[Group, ...]

    def group_of(self, member: str) -> Group:
        """Return the group of a job of the document; raises KeyError if all its jobs were left out."""
        for group in self.groups:
            if group.member == member:
                return group
        raise KeyError(member)


def plan_of(workflow: Workflow, counts: Mapping[str, int] | None = None) -> Plan:
    """Return the plan of a workflow.

    ``counts`` says how many jobs of each member there are to run, where that is not all of them (a rerun): a member
    with none is left out.
    """
    made = jobs_of_members(workflow)
    wanted = {member: made[member] or 1 for member in made} if counts is None else dict(counts)
    members = [job for job in workflow.jobs if wanted.get(job.name, 0)]
    ids = _ids([job.name for job in members])
    forms = _forms(workflow, members, made, wanted)
    parents: dict[str, list[str]] = {}
    for parent, child in workflow.dependencies:
        if parent in ids and child in ids:
            parents.setdefault(child, []).append(parent)
    groups = {
        job.name: Group(
            id=ids[job.name],
            member=job.name,
            form=forms[job.name],
            jobs=None if made[job.name] is None else wanted[job.name],
            stages_in=stages_in(job),
            stages_out=stages_out(job),
            parents=tuple(ids[parent] for parent in parents.get(job.name, ())),
        )
        for job in members
    }
    return Plan(tuple(groups[name] for name in _parents_first(list(groups), parents)))


def stages_in(job: Job) -> bool:
    """Tell whether the job asks for anything to be brought to it."""
    return bool(job.artifacts or job.inputs)


def stages_out(job: Job) -> bool:
    """Tell whether the job asks for anything to be kept of it."""
    return bool(job.output_files or job.output_dirs)


def _forms(
    workflow: Workflow, members: list[Job], made: Mapping[str, int | None], wanted: Mapping[str, int]
) -> dict[str, Form]:
    single = [job for job in members if made[job.name] is None]
    tasks = sum(_tasks_in_phases(stages_in(job), stages_out(job)) for job in single)
    tasks += sum(min(wanted[job.name], MOST_CHUNKS) for job in members if made[job.name] is not None)
    in_phases = workflow.form == "phases" or (workflow.form is None and tasks <= MOST_TASKS_IN_PHASES)
    of_single: Form = "phases" if in_phases else "compact"
    return {job.name: of_single if made[job.name] is None else "array" for job in members}


def _tasks_in_phases(with_input: bool, with_output: bool) -> int:
    return 4 + with_input + with_output


def _ids(names: list[str]) -> dict[str, str]:
    """An id for each name that Airflow takes: two names that become the same get a number."""
    ids: dict[str, str] = {}
    taken = set(_RESERVED)
    for name in names:
        plain = _UNSAFE.sub("_", name).strip("_-")[:_LONGEST_GROUP] or "job"
        candidate, number = plain, 2
        while candidate.lower() in taken:
            candidate, number = f"{plain}-{number}", number + 1
        taken.add(candidate.lower())
        ids[name] = candidate
    return ids


def _parents_first(names: list[str], parents: Mapping[str, list[str]]) -> list[str]:
    """In the document's order, but for children that it names before their parents."""
    ordered: dict[str, None] = {}
    for name in names:
        waiting = [name]
        while waiting:
            missing = [parent for parent in parents.get(waiting[-1], ()) if parent not in ordered]
            if missing:
                waiting.extend(missing)
            else:
                ordered[waiting.pop()] = None
    return list(ordered)
