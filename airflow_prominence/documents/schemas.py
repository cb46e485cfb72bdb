"""The JSON Schemas, and their refusals as sentences.

The files are the one source of truth. Where a keyword's own refusal would not read well, ``x-sentence`` beside it in
the file says it.
"""

from __future__ import annotations

import copy
import difflib
import functools
import itertools
import json
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, Literal

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from airflow_prominence.documents.errors import DocumentError, path_of, quoted

Kind = Literal["job", "workflow", "airflow"]

_ENOUGH_ERRORS = 100
_NOUNS = {
    "object": "an object",
    "array": "a list",
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}
# An unknown key is often why a required one is missing, so it is told first
_ORDER = {"additionalProperties": 0, "type": 1, "required": 2}
_CUSTOM = frozenset({"pattern", "anyOf", "oneOf", "not"})


@functools.cache
def schema_bytes(kind: Kind) -> bytes:
    """The schema file as it is published."""
    return resources.files(__package__).joinpath(f"{kind}.schema.json").read_bytes()


def schema(kind: Kind) -> dict[str, Any]:
    """A copy of the schema, yours to change."""
    return copy.deepcopy(_schema(kind))


def job_form_schema() -> dict[str, Any]:
    """The job's schema without the keys that hold secrets: Airflow stores what is typed into its form in clear."""
    form = schema("job")
    del form["properties"]["storage"], form["$defs"]["storage"]
    del form["$defs"]["task"]["properties"]["imagePullCredential"], form["$defs"]["credential"]
    return form


def check_schema(kind: Kind, value: object) -> None:
    """Raise DocumentError for the first thing wrong with ``value``, outermost first."""
    errors = list(itertools.islice(_validator(kind).iter_errors(value), _ENOUGH_ERRORS))
    if errors:
        first = min(errors, key=lambda error: (len(error.absolute_path), _ORDER.get(str(error.validator), 3)))
        raise _refusal(kind, first)


@functools.cache
def _schema(kind: Kind) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(schema_bytes(kind))
    return loaded


@functools.cache
def _validator(kind: Kind) -> Draft202012Validator:
    return Draft202012Validator(_schema(kind))


def _refusal(kind: Kind, error: ValidationError) -> DocumentError:
    path: list[str | int] = list(error.absolute_path)
    failed: Mapping[str, Any] = error.schema if isinstance(error.schema, Mapping) else {}
    given: Any = error.instance
    wanted: Any = error.validator_value
    keyword = str(error.validator)
    if "propertyNames" in error.absolute_schema_path:
        path.append(given)
    if keyword == "additionalProperties" and isinstance(given, dict):
        known = failed.get("properties", {})
        unknown = next(key for key in given if key not in known)
        return DocumentError(path_of([*path, unknown]), "is not a known key" + _meant(unknown, known))
    if keyword == "required" and isinstance(given, dict):
        missing = next(key for key in wanted if key not in given)
        return DocumentError(path_of([*path, missing]), "is missing")
    sentence = str(failed["x-sentence"]) if keyword in _CUSTOM and "x-sentence" in failed else _said(error)
    if not path:
        return DocumentError("", f"the {kind} {sentence}")
    return DocumentError(path_of(path), sentence)


def _said(error: ValidationError) -> str:
    given: Any = error.instance
    wanted: Any = error.validator_value
    keyword = str(error.validator)
    match keyword:
        case "type":
            nouns = [_NOUNS[name] for name in ([wanted] if isinstance(wanted, str) else wanted)]
            return f"must be {_or(nouns)}, not {_noun(given)}"
        case "enum" | "const":
            choices = wanted if keyword == "enum" else [wanted]
            known = [choice for choice in choices if isinstance(choice, str)]
            return f"must be {_or([json.dumps(choice) for choice in choices])}, not {quoted(given)}" + (
                _meant(given, known) if isinstance(given, str) else ""
            )
        case "minimum":
            return f"must be at least {wanted}"
        case "exclusiveMinimum":
            return f"must be greater than {wanted}"
        case "maximum":
            return f"must be at most {wanted}"
        case "minLength" | "minItems":
            if wanted == 1:
                return "must not be empty"
            return f"must have at least {wanted} {'characters' if keyword == 'minLength' else 'items'}"
        case "maxLength":
            return f"is too long: at most {wanted} characters are allowed"
        case "maxItems":
            return f"must have at most {wanted} items"
        case _:
            return "is not valid"


def _noun(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, int | float):
        return f"{value}" if len(str(value)) <= 20 else "a number"
    return "a list" if isinstance(value, list) else "an object"


def _or(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _meant(word: str, known: Iterable[str]) -> str:
    # difflib's work grows with the square of the length, and a submitted key can be megabytes
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.75) if len(word) <= 64 else []
    return f" (did you mean {close[0]}?)" if close else ""
