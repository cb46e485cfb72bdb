"""The schemas by which Airflow's trigger form checks a job document."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

# Airflow checks the schema itself again with every check of a value, in the triggerer for every single trigger: 35 ms
# for the whole document by the draft in which it is written, 1 ms by this one, which reads our keywords just the same.
_DRAFT = "http://json-schema.org/draft-07/schema#"


def job_param_schema() -> dict[str, Any]:
    """Return the job's JSON Schema for the Param ``job``: everything inlined, null allowed.

    A run's conf is stored in clear, so what carries a secret in a document (storage accounts, registry passwords) has
    no place in the form.
    """
    text = (resources.files("airflow_prominence") / "documents" / "job.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = _without_own_keywords(json.loads(text))
    definitions = schema["$defs"]
    del schema["properties"]["storage"], definitions["storage"]
    del definitions["task"]["properties"]["imagePullCredential"], definitions["credential"]
    return schema | {"$schema": _DRAFT, "type": ["null", "object"]}


def _without_own_keywords(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_own_keywords(value) for key, value in node.items() if not key.startswith("x-")}
    if isinstance(node, list):
        return [_without_own_keywords(item) for item in node]
    return node
