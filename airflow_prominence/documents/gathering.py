"""Whether what a workflow's jobs take of each other can be had."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_prominence.documents.errors import DocumentError, path_of, quoted
from airflow_prominence.documents.expansion import ExpandedJob, expand
from airflow_prominence.documents.family import Family, Gathered
from airflow_prominence.documents.model import Workflow
from airflow_prominence.documents.uploads import is_uploaded_artifact
from airflow_prominence.documents.workflows import jobs_of_members

#: More files than this would take longer to bring to one job than anybody wants to wait.
MOST_GATHERED = 10_000
_LONGEST_FOLDER = 255
_SHOWN_OUTPUTS = 5


@dataclass(frozen=True, slots=True)
class Stranger:
    """An artifact that looks like an output of another job and is none: ``fault`` says why, if it is no upload."""

    url: str
    fault: DocumentError


def strangers(workflow: Workflow, document: Mapping[str, Any]) -> Iterator[Stranger]:
    """Yield the artifacts that start with a job's name but are no output of it, each once.

    ``document`` is the workflow's normalised document. Raises DocumentError for outputs that can't be had.
    """
    family = Family(document)
    index_of = {job.name: index for index, job in enumerate(workflow.jobs)}
    taking = {
        job.name for job in workflow.jobs if any(_names_a_job(family, artifact.url) for artifact in job.artifacts)
    }
    if not taking:
        return
    check = _Check(workflow, family)
    seen = set()
    for expanded in expand(workflow):
        child = expanded.template.name
        if child not in taking or family.is_stored(child):
            continue
        comes: dict[str, int] = {}
        for number, url in enumerate(expanded.artifact_urls):
            path = path_of(("jobs", index_of[child], "artifacts", number, "url"))
            if not _names_a_job(family, url):
                continue
            gathered = family.gathered(url, child)
            if gathered is not None:
                _check_alone(gathered, number, comes, path)
            if (path, url) in seen:
                continue
            seen.add((path, url))
            if gathered is None:
                yield Stranger(url, DocumentError(path, _why_not(family, url, child)))
            else:
                check.had(gathered, path)


def _names_a_job(family: Family, url: str) -> bool:
    """Tell whether an artifact starts with the name of a job; its parameters may not be put in yet."""
    first, slash, _ = url.partition("/")
    return is_uploaded_artifact(url) and bool(slash) and (first in family or "$" in first)


def _why_not(family: Family, url: str, child: str) -> str:
    member, _, file = url.partition("/")
    if member not in family:
        return f"there is neither a job nor a group of yours named {quoted(member)}"
    if member == child:
        return "a job cannot have its own outputs as artifacts"
    if not family.is_above(member, child):
        return f"is an output of {quoted(member)}, which {quoted(child)} does not depend on"
    outputs = [asked.names[-1] for asked in family.outputs(member, {})]
    if not outputs:
        return f"{quoted(member)} keeps no outputs: it has neither outputFiles nor outputDirs"
    shown = ", ".join(map(quoted, outputs[:_SHOWN_OUTPUTS])) + (", …" if len(outputs) > _SHOWN_OUTPUTS else "")
    return f"{quoted(member)} keeps no {quoted(file)}, but {shown}"


def _check_alone(gathered: Gathered, number: int, comes: dict[str, int], path: str) -> None:
    """What comes into the job's directory by its own name must not come twice."""
    if gathered.is_of_all:
        return
    name = gathered.file.rstrip("/").rpartition("/")[2]
    if name in comes:
        sentence = f"would come as {quoted(name)}, as artifacts[{comes[name]}] would: name one of the outputs otherwise"
        raise DocumentError(path, sentence)
    comes[name] = number


class _Check:
    """Looks whether outputs will be there; what a factory's jobs keep is written out once for all who ask."""

    def __init__(self, workflow: Workflow, family: Family) -> None:
        self._family = family
        self._counts = jobs_of_members(workflow)
        self._workflow = workflow
        self._texts: dict[str, list[Mapping[str, str]]] = {}
        self._names: dict[str, frozenset[str]] = {}

    def had(self, gathered: Gathered, path: str) -> None:
        """Raise DocumentError if what is meant will not be there, or is too much."""
        member = gathered.member
        if self._family.is_stored(member):
            sentence = f"{quoted(member)} keeps its outputs on storage of its own: attach that and read them there"
            raise DocumentError(path, sentence)
        count = self._counts[member]
        if count is None:
            return
        if gathered.instance is not None:
            if gathered.instance >= count:
                raise DocumentError(path, f"there are {count} jobs {quoted(member)}, numbered from 0")
            texts = self._points(member)[gathered.instance]
            if not self._family.meant(gathered, texts)[1]:
                raise DocumentError(
                    path, f"job {gathered.instance} of {quoted(member)} keeps no {quoted(gathered.file)}"
                )
            return
        if len(member.encode()) > _LONGEST_FOLDER:
            raise DocumentError(path, "the job's name is too long for that of a folder")
        ends = (self._points(member)[0], self._points(member)[-1])
        if all(self._family.meant(gathered, texts)[1] for texts in ends):
            if count > MOST_GATHERED:
                sentence = f"would bring {count} files, and the limit is {MOST_GATHERED}: let others gather them first"
                raise DocumentError(path, sentence)
        elif gathered.file not in self._kept(member) and not self._has_patterns(member):
            raise DocumentError(path, f"no job {quoted(member)} keeps {quoted(gathered.file)}")

    def _points(self, member: str) -> list[Mapping[str, str]]:
        if member not in self._texts:
            mine: Iterator[ExpandedJob] = (job for job in expand(self._workflow) if job.template.name == member)
            self._texts[member] = [job.texts for job in mine]
        return self._texts[member]

    def _kept(self, member: str) -> frozenset[str]:
        if member not in self._names:
            outputs = (asked for texts in self._points(member) for asked in self._family.outputs(member, texts))
            self._names[member] = frozenset(name for asked in outputs for name in asked.names)
        return self._names[member]

    def _has_patterns(self, member: str) -> bool:
        return any(asked.is_pattern for asked in self._family.outputs(member, {}))
