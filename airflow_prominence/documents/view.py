"""How a submitted document is shown again: as it was, but with the defaults that must be seen, and no aliases."""

from __future__ import annotations

import copy
from typing import Any

from airflow_prominence.documents.files import mended_artifact
from airflow_prominence.documents.tasks import default_runtime


def normalise(doc: dict[str, Any]) -> dict[str, Any]:
    """A copy of a valid job document with its name, the tasks' runtimes, nodes and disk filled in."""
    shown = copy.deepcopy(doc)
    shown.setdefault("name", "")
    resources = shown["resources"]
    resources.setdefault("disk", 10)
    if "totalCpusRange" in resources:
        # The range decides; the released client's library sends its default beside it
        resources.pop("nodes", None)
    else:
        resources.setdefault("nodes", 1)
    if "cpusRange" in resources or "cpusOptions" in resources:
        resources.pop("cpus", None)
    for task in shown["tasks"]:
        task.setdefault("runtime", default_runtime(task["image"]))
    if "artifacts" in shown:
        shown["artifacts"] = [mended_artifact(artifact) for artifact in shown["artifacts"]]
    policies = shown.get("policies", {})
    if "ignoreTaskTailures" in policies:
        policies["ignoreTaskFailures"] = policies.pop("ignoreTaskTailures")
    return shown


def normalise_workflow(doc: dict[str, Any]) -> dict[str, Any]:
    """The same for a valid workflow document, with its factories in their present form."""
    shown = copy.deepcopy(doc)
    shown.setdefault("name", "")
    shown["jobs"] = [normalise(job) for job in shown["jobs"]]
    if "factory" in shown:
        factory = shown.pop("factory")
        every = [job["name"] for job in shown["jobs"]]
        shown["factories"] = [{"name": factory.get("name") or "factory", "jobs": every, **_without(factory, "name")}]
    for factory in shown.get("factories", []):
        if factory["type"] == "parametricSweep":
            factory["type"] = "parameterSweep"
        if "num" in factory:
            factory["number"] = factory.pop("num")
    return shown


def as_submitted(value: object) -> object:
    """A document without what the released client's ``describe --input`` leaves in it of the description."""
    if isinstance(value, dict) and isinstance(value.get("statusReason"), str):
        return _without(value, "statusReason")
    return value


def _without(doc: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in doc.items() if name != key}
