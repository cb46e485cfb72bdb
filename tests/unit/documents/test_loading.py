"""Bytes that must not become a document (no parser quirk may decide what a job is)."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_prominence.documents import DocumentError, loads, parse_job, parse_workflow


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"cpus": 1, "cpus": 2}', "appears twice"),
        (b'{"a": {"b": 1, "\\u0062": 2}}', "appears twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": [-Infinity]}', "-Infinity"),
        (b'{"a": 1e999}', "a: must be a finite number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"a": 9223372036854775808}', "a: is too large a number"),
        (b"[" * 65 + b"]" * 65, "nested more than 64"),
        (b"[" * 10_000 + b"]" * 10_000, "nested more than 64"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested more than 64"),
        (b'{"a": "\xff"}', "not valid UTF-8 (byte 7)"),
        ('{"a": 1}'.encode("utf-16"), "not valid UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "not valid JSON"),
        (b'{"a": "x\\u0000y"}', "a: cannot hold a NUL character"),
        (b'{"x\\u0000": 1}', "cannot hold a NUL character"),
        (b'{"a": "\\ud800"}', "a: holds half of a surrogate pair"),
        (b"", "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b'{"a": 1} x', "not valid JSON"),
        (b'{"a": [' + b"0," * 600_000 + b"0]}", "more than 300000 values"),
    ],
)
def test_refused_in_one_sentence(text: bytes, words: str) -> None:
    with pytest.raises(DocumentError, match=r"^[^\n]{1,200}$") as refusal:
        loads(text)
    assert words in str(refusal.value)


def test_what_is_fine() -> None:
    assert loads(b"[" * 64 + b"]" * 64)
    assert loads(b'{"a": [1, 2.5, true, null, "\\u00e9\\ud83d\\ude00 {{ x }} $(id) `id`\\n\'\\""]}') == {
        "a": [1, 2.5, True, None, "é😀 {{ x }} $(id) `id`\n'\""]
    }


@pytest.mark.parametrize(
    "value",
    [
        {"a": float("nan")},
        {"a": (1, 2)},
        {1: 2},
        {"a": {"b": object()}},
        {"a": b"bytes"},
        float("inf"),
        "\0",
        None,
        True,
        [],
        {},
    ],
)
def test_values_that_no_json_made_are_refused_too(value: Any) -> None:
    for parse in (parse_job, parse_workflow):
        with pytest.raises(DocumentError):
            parse(value)


def test_a_number_of_python_is_no_way_around() -> None:
    for wrong in (float("nan"), float("inf"), True, "1e3", 10**30):
        with pytest.raises(DocumentError, match=r"^resources\.memory: "):
            parse_job({"resources": {"cpus": 1, "memory": wrong}, "tasks": [{"image": "busybox"}]})
