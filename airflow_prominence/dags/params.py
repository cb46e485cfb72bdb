"""The schemas by which Airflow's trigger form checks a job document."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any, Literal

# Airflow checks the schema itself again with every check of a value, in the triggerer for every single trigger: 35 ms
# for the whole document by the draft in which it is written, 1 ms by this one, which reads our keywords just the same.
_DRAFT = "http://json-schema.org/draft-07/schema#"


def param_schema(kind: Literal["job", "workflow"]) -> dict[str, Any]:
    """Return the JSON Schema of a document for the Param of its name: everything in one, null allowed.

    A run's conf is stored in clear, so what carries a secret in a document (storage accounts, registry passwords) has
    no place in the form.
    """
    text = (resources.files("airflow_prominence") / "documents" / f"{kind}.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = _without_own_keywords(json.loads(text))
    definitions = schema["$defs"]
    of_job = schema if kind == "job" else definitions["job"]
    del of_job["properties"]["storage"], definitions["storage"]
    del definitions["task"]["properties"]["imagePullCredential"], definitions["credential"]
    del schema["$defs"], schema["$schema"]
    nullable = ["null", "object"]
    definitions["document"] = schema | {"type": nullable}
    return {
        "$schema": _DRAFT,
        # In this draft what stands beside a reference is not looked at: the type here only tells the form its field.
        "$ref": "#/$defs/document",
        "type": nullable,
        "title": schema["title"],
        "description": schema["description"],
        "$defs": {name: _told_briefly(definition) for name, definition in definitions.items()},
    }


def _without_own_keywords(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_own_keywords(value) for key, value in node.items() if not key.startswith("x-")}
    if isinstance(node, list):
        return [_without_own_keywords(item) for item in node]
    return node


def _told_briefly(schema: Any) -> Any:
    """Return the same schema with each keyword of an object in a schema of its own.

    The form shows of a refusal the sentence and then, whole, the schema that holds the keyword: for an unknown key a
    thousand lines of what is allowed anywhere below.
    """
    if not isinstance(schema, dict):
        return schema
    told = dict(schema)
    for key in {"items", "additionalProperties", "not", "if", "then"} & told.keys():
        told[key] = _told_briefly(told[key])
    for key in {"allOf", "anyOf"} & told.keys():
        told[key] = [_told_briefly(part) for part in told[key]]
    if "properties" not in told:
        return told
    properties = told.pop("properties")
    parts: list[dict[str, Any]] = [{key: told.pop(key)} for key in ("type", "required") if key in told]
    if "additionalProperties" in told:
        names = dict.fromkeys(properties, True)
        parts.append({"properties": names, "additionalProperties": told.pop("additionalProperties")})
    parts.append({"properties": {name: _told_briefly(value) for name, value in properties.items()}})
    return told | {"allOf": [*parts, *told.get("allOf", [])]}
