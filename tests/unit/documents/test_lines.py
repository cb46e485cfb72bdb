"""JSON and YAML are read to the same values, and a refusal of either knows its line."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from airflow_prominence.documents import yamlfiles
from airflow_prominence.documents.lines import LineError, line_of, read_json
from airflow_prominence.documents.yamlfiles import read_yaml

JSON = """\
{
  "a": [1,
    {"b.c": "x\\n", "d": []},
    {}],
  "e": null}
"""
YAML = """\
# comment
a:
- 1
- b.c: "x\\n"
  d: []

- {}
e:
"""


@pytest.mark.parametrize(
    ("read", "text", "lines"),
    [
        (read_json, JSON, {"": 1, "a": 2, "a[0]": 2, "a[1]": 3, "a[1].b.c": 3, "a[1].d": 3, "a[2]": 4, "e": 5}),
        (read_yaml, YAML, {"": 2, "a": 2, "a[0]": 3, "a[1]": 4, "a[1].b.c": 4, "a[1].d": 5, "a[2]": 7, "e": 8}),
    ],
)
def test_lines_of_all_parts(read: type, text: str, lines: dict[str, int]) -> None:
    assert read(text) == ({"a": [1, {"b.c": "x\n", "d": []}, {}], "e": None}, lines)


@pytest.mark.parametrize(
    ("path", "line"),
    [("a[1].d", 5), ("a[1].d[3].x", 5), ("a[1].missing", 4), ("a[7]", 2), ("nothing", 2), ('a[1]["odd key"]', 4)],
)
def test_what_is_not_there_has_the_line_around_it(path: str, line: int) -> None:
    assert line_of(path, read_yaml(YAML)[1]) == line


SCALARS = {
    "2026-01-01": "2026-01-01",
    "2026-01-01T00:00:00Z": "2026-01-01T00:00:00Z",
    "yes": "yes",
    "off": "off",
    "12:30": "12:30",
    "1_000": "1_000",
    "=": "=",
    "true": True,
    "False": False,
    "~": None,
    "": None,
    "-17": -17,
    "0": 0,
    "1.5": 1.5,
    "1e3": 1000.0,
    ".5": 0.5,
    "'17'": "17",
    '"true"': "true",
    "|\n  two\n  lines": "two\nlines\n",
}


@pytest.mark.parametrize("loader", [yaml.SafeLoader, yaml.CSafeLoader])
@pytest.mark.parametrize(("text", "value"), SCALARS.items())
def test_scalars_of_yaml(text: str, value: object, loader: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamlfiles, "_LOADER", loader)
    found, _ = read_yaml(f"k: {text}\n")
    assert found == {"k": value}
    assert type(found["k"]) is type(value)  # type: ignore[index]


BOMB = "a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize("loader", [yaml.SafeLoader, yaml.CSafeLoader])
@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        (BOMB, 2, "b[0]: aliases as *a are not allowed: write the value out"),
        ("a: 1\nb: 2\na: 3\n", 3, "a: appears twice"),
        (
            "a:\n  !!python/object/apply:os.system [id]\n",
            2,
            'a: tags as "tag:yaml.org,2002:python/object/apply:os.system" are not allowed',
        ),
        ("a: 1\nb: 0755\n", 2, 'b: "0755" is not the same to all readers of YAML: put it in quotes, or write decimals'),
        ("a: 0x1F\n", 1, 'a: "0x1F" is not the same to all readers of YAML: put it in quotes, or write decimals'),
        ("a:\n- .inf\n", 2, "a[0]: must be a finite number"),
        ("a:\n- " + "9" * 300, 2, "a[0]: is too large a number"),
        ("a: 1\n? [b]\n: 2\n", 2, "has a key that is not a text"),
        ("a: 1\n---\na: 2\n", 2, "holds more than one YAML document"),
        ("# nothing\n", None, "is empty"),
        ("[\n" * 100_000, 65, "the document is nested more than 64 levels deep"),
        ("é: 1\na: \x01\n", 2, "holds a character that YAML does not allow"),
    ],
)
def test_what_yaml_is_refused(
    text: str, line: int | None, sentence: str, loader: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yamlfiles, "_LOADER", loader)
    with pytest.raises(LineError) as refused:
        read_yaml(text)
    assert (refused.value.line, str(refused.value)) == (line, sentence)


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        ("a: [1\nb: 2\n", 2, "is not valid YAML: "),
        ("x: 1\n  y: 2\n", 2, "is not valid YAML: mapping values are not allowed"),
        ("a:\n\t- b\n", 2, "is not valid YAML: found character"),
    ],
)
def test_syntax_of_yaml(text: str, line: int, sentence: str) -> None:
    with pytest.raises(LineError) as refused:
        read_yaml(text)
    assert refused.value.line == line
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        ('{"a": 1,\n "b": {"c": 1,\n "c": 2}}', 3, "b.c: appears twice"),
        ('{"a":\n x}', 2, "is not valid JSON: Expecting value (column 2)"),
        ('{"a": [\n 1e999]}', 2, "a[0]: must be a finite number"),
        ("", 1, "is not valid JSON: Expecting value (column 1)"),
        ('["a",\n "\\u0000"]', 2, "[1]: cannot hold a NUL character"),
    ],
)
def test_what_json_is_refused(text: str, line: int, sentence: str) -> None:
    with pytest.raises(LineError) as refused:
        read_json(text)
    assert (refused.value.line, str(refused.value)) == (line, sentence)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('ab.[]"\\{},: \n', max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(VALUES)
def test_any_json_is_read_as_it_is(value: object) -> None:
    text = json.dumps(value, indent=1)
    found, lines = read_json(text)
    assert found == value
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())


@given(VALUES)
def test_lines_of_json_are_those_of_its_keys(value: object) -> None:
    # With one value a line, the n-th part of the document stands in the n-th line that is not a closing bracket.
    text = json.dumps({"x": value}, indent=1)
    opening = [n for n, line in enumerate(text.split("\n"), 1) if line.strip().rstrip(",") not in {"}", "]"}]
    assert set(read_json(text)[1].values()) <= set(opening)
