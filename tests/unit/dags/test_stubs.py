"""A stub is Python that holds its document exactly, and readably where Python lets it."""

from __future__ import annotations

import ast

import pytest
from airflow.utils.file import might_contain_dag_via_default_heuristic
from hypothesis import given
from hypothesis import strategies as st

from airflow_prominence.dags.stubs import literal_of, stub_of, stub_of_refusal

TEXTS = st.text(st.sampled_from("ab \n\r\t\"'\\{}\0#é\x0c\u2028") | st.characters(exclude_categories=["Cs"]))


@given(TEXTS, TEXTS)
def test_any_text_in_any_file(text: str, file: str) -> None:
    # As a file does it: the line ends become one kind
    source = stub_of(text, file).encode().decode().replace("\r\n", "\n").replace("\r", "\n")
    assigned, made = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    assert ast.literal_eval(assigned.value) == text
    assert isinstance(made.value, ast.Call)
    assert ast.literal_eval(made.value.args[1]) == file


@given(TEXTS, TEXTS)
def test_any_refusal(sentence: str, file: str) -> None:
    (made,) = [node for node in ast.parse(stub_of_refusal(sentence, file)).body if isinstance(node, ast.Assign)]
    assert isinstance(made.value, ast.Call)
    assert ast.literal_eval(made.value.args[0]) == sentence


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("name: a\njobs: []\n", '"""\\\nname: a\njobs: []\n"""'),
        ('{"cmd": "a\\nb"}\n', 'r"""{"cmd": "a\\nb"}\n"""'),
        ('{"a": """}\n', "'''\\\n{\"a\": \"\"\"}\n'''"),
        ("a\r\nb\r\n", "(\n    'a\\r\\n'\n    'b\\r\\n'\n)"),
        ("", '"""\\\n"""'),
    ],
)
def test_the_document_can_be_read(text: str, literal: str) -> None:
    assert literal_of(text) == literal
    assert ast.literal_eval(literal) == text


def test_airflow_takes_it_for_a_dag_file(tmp_path: object) -> None:
    from pathlib import Path

    for number, stub in enumerate([stub_of("x", "x.yaml"), stub_of_refusal("x", "x.yaml")]):
        path = Path(str(tmp_path)) / f"{number}.py"
        path.write_text(stub)
        assert might_contain_dag_via_default_heuristic(str(path))
