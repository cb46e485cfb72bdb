"""Secrets are hidden, taken out and put back, in jobs and in the jobs of workflows."""

from __future__ import annotations

import copy
import json
from typing import Any

from airflow_prominence.documents import extract, parse_job, redact, restore, schema
from airflow_prominence.documents.secrets import CREDENTIAL_SECRETS, STORAGE_SECRETS

JOB: dict[str, Any] = {
    "name": "j",
    "resources": {"cpus": 1, "memory": 1},
    "tasks": [
        {"image": "a"},
        {"image": "b", "imagePullCredential": {"username": "USER", "token": "TOKEN"}},
    ],
    "storage": {
        "type": "webdav",
        "mountpoint": "/d",
        "webdav": {"url": "https://dav.example", "username": "DAVUSER", "password": "DAVPASS"},
    },
}


def test_a_job() -> None:
    before = copy.deepcopy(JOB)
    redacted, secrets = extract(JOB)
    assert before == JOB
    assert secrets == {
        "tasks[1].imagePullCredential.username": "USER",
        "tasks[1].imagePullCredential.token": "TOKEN",
        "storage.webdav.username": "DAVUSER",
        "storage.webdav.password": "DAVPASS",
    }
    shown = json.dumps(redacted)
    assert not any(secret in shown for secret in secrets.values())
    assert redacted["storage"]["webdav"]["url"] == "https://dav.example"
    assert redacted["tasks"][1]["imagePullCredential"] == {"username": "***", "token": "***"}
    assert restore(redacted, secrets) == JOB
    assert redact(JOB) == redacted
    parse_job(redacted)


def test_the_jobs_of_a_workflow() -> None:
    workflow = {"jobs": [{"name": "x"}, JOB]}
    redacted, secrets = extract(workflow)
    assert secrets["jobs[1].storage.webdav.password"] == "DAVPASS"
    assert "DAV" not in json.dumps(redacted)
    assert restore(redacted, secrets) == workflow


def test_a_document_that_is_not_valid_hides_its_secrets_too() -> None:
    broken: dict[str, Any] = {
        "tasks": [None, {"imagePullCredential": {"token": ["TOKEN"]}}],
        "storage": {"type": 1, "onedata": {"token": {"a": "TOKEN"}}},
        "jobs": "x",
    }
    redacted, secrets = extract(broken)
    assert "TOKEN" not in json.dumps(redacted)
    assert restore(redacted, secrets) == broken
    for other in (None, 1, "x", [], [broken]):
        assert extract(other) == (other, {})


def test_every_secret_key_of_the_schema_is_known() -> None:
    """What the schema promises never to show again is what redaction hides."""
    definitions = schema("job")["$defs"]
    assert set(definitions["credential"]["properties"]) == set(CREDENTIAL_SECRETS)
    blocks = [definitions["storage"]["properties"][kind]["properties"] for kind in ("b2drop", "onedata", "webdav")]
    assert {key for block in blocks for key in block} - {"provider", "options", "url"} == set(STORAGE_SECRETS)
