"""Parameters of a workflow's runs: their values put into its document, as a factory puts its own into a template."""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from airflow_prominence.documents.commands import changed_command, substitute
from airflow_prominence.documents.errors import DocumentError
from airflow_prominence.documents.factories import Value, value_text
from airflow_prominence.documents.loading import check_values
from airflow_prominence.documents.tasks import PARAMETER_PREFIX

LOGICAL_DATE = "logical_date"
DAY = "ds"
RESERVED = frozenset({LOGICAL_DATE, DAY})
"""What each run has besides the parameters of its document: its date and time, and the day of it, by ISO 8601."""

Change = Callable[[str], str]


def parameter_names(document: Mapping[str, Any]) -> frozenset[str]:
    """The names of the parameters of all factories in a workflow document."""
    return frozenset(
        parameter["name"] for factory in _factories(document) for parameter in factory.get("parameters", ())
    )


def values_of_run(
    defaults: Mapping[str, Value], given: Mapping[str, object], logical_date: dt.datetime
) -> dict[str, str]:
    """The texts of a run's parameters: what was given to the run before the defaults, and the run's date.

    ``given`` may hold other things too. A value that no parameter can have is a DocumentError.
    """
    values: dict[str, str] = {}
    for name, default in defaults.items():
        value = given.get(name, default)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise DocumentError(name, "must be a string or a number")
        check_values(value)
        values[name] = value_text(value)
    utc = logical_date.astimezone(dt.timezone.utc)
    return {**values, LOGICAL_DATE: utc.isoformat(timespec="seconds"), DAY: utc.date().isoformat()}


def put_in(document: Mapping[str, Any], values: Mapping[str, str], *, dollars: bool) -> dict[str, Any]:
    """A copy of a valid workflow document with the values in its commands, environments, artifacts and outputs.

    ``dollars`` makes ``$$`` a plain dollar sign, except in templates of factories that do so themselves.
    """
    changed = copy.deepcopy(dict(document))
    templates = {
        name
        for factory in _factories(changed)
        if factory.get("parameters")
        for name in factory.get("jobs", [job.get("name") for job in changed["jobs"]])
    }
    variables = {PARAMETER_PREFIX + name: text for name, text in values.items()}
    for job in changed["jobs"]:
        if job.get("name") in templates:
            _change(job, _for_a_template(values), {name: _escaped(text) for name, text in variables.items()})
        else:
            _change(job, lambda text: substitute(text, values, dollars=dollars), variables)
    return changed


def _factories(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from document.get("factories", ())
    if "factory" in document:
        yield document["factory"]


def _for_a_template(values: Mapping[str, str]) -> Change:
    """What the factory reads afterwards must be left as it is, and what is put in must not mean anything to it."""
    escaped = {name: _escaped(text) for name, text in values.items()}
    return lambda text: "$$".join(substitute(part, escaped) for part in text.split("$$"))


def _escaped(text: str) -> str:
    return text.replace("$", "$$")


def _change(job: dict[str, Any], change: Change, variables: Mapping[str, str]) -> None:
    for task in job["tasks"]:
        if "cmd" in task:
            task["cmd"] = changed_command(task["cmd"], change)
        env = {name: change(text) if isinstance(text, str) else text for name, text in task.get("env", {}).items()}
        task["env"] = {**env, **variables}
    for artifact in job.get("artifacts", ()):
        artifact["url"] = change(artifact["url"])
    for key in ("outputFiles", "outputDirs"):
        if key in job:
            job[key] = [change(name) for name in job[key]]
