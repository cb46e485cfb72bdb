"""Each document of tests/corpus dropped as a file, JSON and YAML: the same workflow, or a refusal and its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_prominence.documents import (
    DropInError,
    expand,
    extract,
    parse_drop_in,
    parse_job,
    parse_workflow,
    unsupported,
    unsupported_workflow,
)

CORPUS = Path(__file__).parents[2] / "corpus"


def of_kind(valid: bool) -> list[Any]:
    found = []
    for path in sorted(CORPUS.glob("*.expected.json")):
        expected = json.loads(path.read_text())
        document = path.with_name(path.name.replace(".expected", ""))
        # To a list, no block can be added
        if expected["valid"] == valid and isinstance(json.loads(document.read_text()), dict):
            found.append(pytest.param(document, expected["kind"], id=document.stem))
    assert found
    return found


def dropped(value: Any) -> list[tuple[str, str]]:
    """The document with an owner, as the text of a JSON and of a YAML file, each with the file's name."""
    with_owner = {**value, "airflow": {"owner": "demo"}}
    return [
        (json.dumps(with_owner, indent=2), "dropped.json"),
        (yaml.safe_dump(with_owner, sort_keys=False), "dropped.yaml"),
    ]


@pytest.mark.parametrize(("document", "kind"), of_kind(valid=True))
def test_what_is_valid_over_rest(document: Path, kind: str) -> None:
    value = json.loads(document.read_text())
    workflow = parse_workflow(value) if kind == "workflow" else None
    gap = unsupported_workflow(workflow) if workflow is not None else unsupported(parse_job(value))
    in_a_file = not (gap or extract(value)[1] or "notifications" in json.dumps(value))
    for text, file in dropped(value):
        if not in_a_file:
            with pytest.raises(DropInError) as refused:
                parse_drop_in(text, file)
            assert refused.value.line is not None
            continue
        found = parse_drop_in(text, file)
        if workflow is not None:
            assert found.workflow.jobs == workflow.jobs
            assert [made.key for made in expand(found.workflow)] == [made.key for made in expand(workflow)]
        else:
            assert found.workflow.jobs[0].tasks == parse_job(value).tasks


@pytest.mark.parametrize(("document", "kind"), of_kind(valid=False))
def test_what_is_refused_over_rest(document: Path, kind: str) -> None:
    value = json.loads(document.read_text())
    for text, file in dropped(value):
        with pytest.raises(DropInError, match=rf"^{file}, line \d+: "):
            parse_drop_in(text, file)
