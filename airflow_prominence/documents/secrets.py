"""Secrets of a document: hidden from view, taken out for safe keeping, put back.

Works on any JSON value, valid document or not, so that nothing leaks into a refusal or a log either.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

HIDDEN = "***"

STORAGE_SECRETS = ("app-username", "app-password", "token", "username", "password")
CREDENTIAL_SECRETS = ("username", "token")

_PART = re.compile(r"\[(\d+)\]|([^.\[\]]+)")


def redact(doc: Any) -> Any:
    """A copy of a job or workflow document that shows ``***`` for each secret."""
    return extract(doc)[0]


def extract(doc: Any) -> tuple[Any, dict[str, Any]]:
    """A redacted copy, and the secrets by their paths (``tasks[0].imagePullCredential.token``)."""
    redacted = copy.deepcopy(doc)
    secrets: dict[str, Any] = {}
    for path, holder, key in _secrets(redacted):
        secrets[path] = holder[key]
        holder[key] = HIDDEN
    return redacted, secrets


def restore(doc: Any, secrets: Mapping[str, Any]) -> Any:
    """A copy of a redacted document with its secrets put back; inverse of ``extract``."""
    restored = copy.deepcopy(doc)
    for path, value in secrets.items():
        *parents, last = [int(index) if index else key for index, key in _PART.findall(path)]
        holder = restored
        for part in parents:
            holder = holder[part]
        holder[last] = copy.deepcopy(value)
    return restored


def _secrets(doc: Any) -> Iterator[tuple[str, dict[str, Any], str]]:
    yield from _job_secrets(doc, "")
    for index, job in _items(doc, "jobs"):
        yield from _job_secrets(job, f"jobs[{index}].")


def _job_secrets(job: Any, prefix: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    for index, task in _items(job, "tasks"):
        credential = task.get("imagePullCredential")
        yield from _present(credential, CREDENTIAL_SECRETS, f"{prefix}tasks[{index}].imagePullCredential.")
    storage = job.get("storage") if isinstance(job, dict) else None
    if isinstance(storage, dict):
        for kind in ("b2drop", "onedata", "webdav"):
            yield from _present(storage.get(kind), STORAGE_SECRETS, f"{prefix}storage.{kind}.")


def _items(doc: Any, key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    items = doc.get(key) if isinstance(doc, dict) else None
    if isinstance(items, list):
        yield from ((index, item) for index, item in enumerate(items) if isinstance(item, dict))


def _present(holder: Any, keys: tuple[str, ...], prefix: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    if isinstance(holder, dict):
        yield from ((prefix + key, holder, key) for key in keys if key in holder)
