"""Expansion: the jobs that a workflow's factories make of its templates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_prominence.documents.commands import changed_command, substitute
from airflow_prominence.documents.factories import Value, points_of, value_text
from airflow_prominence.documents.model import Artifact, Job, Task, Workflow
from airflow_prominence.documents.workflows import factory_of_job


@dataclass(frozen=True, slots=True)
class ExpandedJob:
    """One job of a workflow. Its template is shared by all jobs of a factory; ``index`` is None without a factory."""

    workflow: str
    template: Job
    index: int | None = None
    parameters: Mapping[str, Value] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Its name within the workflow: ``job`` or ``job/3``."""
        return self.template.name if self.index is None else f"{self.template.name}/{self.index}"

    @property
    def name(self) -> str:
        return f"{self.workflow}/{self.key}"

    @property
    def texts(self) -> dict[str, str]:
        """The parameters as they are put into commands."""
        return {name: value_text(value) for name, value in self.parameters.items()}

    @property
    def env(self) -> dict[str, str]:
        """The variables that tell the job its parameters."""
        return parameters_env(self.parameters)

    @property
    def artifact_urls(self) -> tuple[str, ...]:
        """The URLs of its artifacts with the parameters put in."""
        urls = (artifact.url for artifact in self.template.artifacts)
        if not self.parameters:
            return tuple(urls)
        texts = self.texts
        return tuple(substitute(url, texts, dollars=True) for url in urls)

    @property
    def job(self) -> Job:
        """The job with its parameters put in, under its full name."""
        if not self.parameters:
            return replace(self.template, name=self.name)
        texts = self.texts
        return replace(
            self.template,
            name=self.name,
            tasks=tuple(_task(task, texts) for task in self.template.tasks),
            artifacts=tuple(
                Artifact(url, artifact.mount, artifact.executable)
                for url, artifact in zip(self.artifact_urls, self.template.artifacts, strict=True)
            ),
            output_files=tuple(substitute(name, texts, dollars=True) for name in self.template.output_files),
            output_dirs=tuple(substitute(name, texts, dollars=True) for name in self.template.output_dirs),
        )


def parameters_env(parameters: Mapping[str, Value]) -> dict[str, str]:
    """The variables that tell a job the parameters it was made of."""
    return {f"PROMINENCE_PARAMETER_{name}": value_text(value) for name, value in parameters.items()}


def expand(workflow: Workflow) -> tuple[ExpandedJob, ...]:
    """All jobs in the document's order, those of a factory by index."""
    factories = factory_of_job(workflow)
    return tuple(
        expanded
        for job in workflow.jobs
        for expanded in (
            (
                ExpandedJob(workflow.name, job, index, point)
                for index, point in enumerate(points_of(factories[job.name]))
            )
            if job.name in factories
            else (ExpandedJob(workflow.name, job),)
        )
    )


def expanded_document(template: Mapping[str, Any], expanded: ExpandedJob) -> dict[str, Any]:
    """The document of one job: that of its template with the parameters put in, under its full name.

    What the parameters don't touch is shared with the template, so neither may be changed afterwards.
    """
    doc = {**template, "name": expanded.name}
    if not expanded.parameters:
        return doc
    job = expanded.job
    doc["tasks"] = [_task_document(task, made) for task, made in zip(template["tasks"], job.tasks, strict=True)]
    if job.artifacts:
        doc["artifacts"] = [
            {**artifact, "url": made.url} for artifact, made in zip(template["artifacts"], job.artifacts, strict=True)
        ]
    if job.output_files:
        doc["outputFiles"] = list(job.output_files)
    if job.output_dirs:
        doc["outputDirs"] = list(job.output_dirs)
    return doc


def _task_document(template: Mapping[str, Any], task: Task) -> dict[str, Any]:
    doc = dict(template)
    if task.cmd is not None:
        doc["cmd"] = task.cmd
    if task.env:
        doc["env"] = dict(task.env)
    return doc


def edges(workflow: Workflow, jobs: Iterable[ExpandedJob]) -> Iterator[tuple[str, str]]:
    """Parent and child by their keys, one after another: two factories of thousands have millions of edges."""
    keys: dict[str, list[str]] = {}
    for job in jobs:
        keys.setdefault(job.template.name, []).append(job.key)
    for parent, child in workflow.dependencies:
        for above in keys[parent]:
            yield from ((above, below) for below in keys[child])


def _task(task: Task, texts: Mapping[str, str]) -> Task:
    def put_in(text: str) -> str:
        return substitute(text, texts, dollars=True)

    env = {name: put_in(text) for name, text in task.env.items()}
    # Whoever splits the command again finds the words that it has now
    return replace(task, env=env, cmd=None if task.cmd is None else changed_command(task.cmd, put_in))
