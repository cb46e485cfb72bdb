"""Properties that hold for whatever anybody sends."""

from __future__ import annotations

import json
import shlex
import string
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_prominence.documents import (
    DocumentError,
    expand,
    extract,
    loads,
    normalise,
    parse_job,
    parse_workflow,
    redact,
    restore,
    schema,
    substitute,
    task_argv,
    unsupported,
)

# A busy machine is no failure
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
WORDS = sorted(
    {key for kind in ("job", "workflow") for key in json.dumps(schema(kind)).split('"') if key.isidentifier()}
    | {"a", "b", "$x", "../x", "app-username", "app-password", "https://x.example/y", "/data", "d:/data", "busybox"}
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(WORDS)
    | st.sampled_from([1, 2, 10, 2**31, 1e308, 5e-324, 0.1])
)
KEYS = st.sampled_from(WORDS) | st.text(max_size=5)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6), max_leaves=25
)

RESOURCES = {"cpus": 1, "memory": 1}


def job(**changes: Any) -> dict[str, Any]:
    return {"resources": RESOURCES, "tasks": [{"image": "busybox"}], **changes}


@st.composite
def near_jobs(draw: st.DrawFn) -> Any:
    """A valid job with some of its parts replaced by anything."""
    made: dict[str, Any] = job(name="a")
    properties = schema("job")["properties"]
    for key in draw(st.lists(st.sampled_from(sorted(properties)), max_size=4)):
        made[key] = draw(JSON)
    task_keys = sorted(schema("job")["$defs"]["task"]["properties"])
    if isinstance(made["tasks"], list) and made["tasks"] and isinstance(made["tasks"][0], dict):
        made["tasks"] = [
            {**made["tasks"][0], **{key: draw(JSON) for key in draw(st.lists(st.sampled_from(task_keys)))}}
        ]
    resource_keys = sorted(schema("job")["$defs"]["resources"]["properties"])
    if made["resources"] is RESOURCES:
        changed = {key: draw(JSON) for key in draw(st.lists(st.sampled_from(resource_keys), max_size=2))}
        made["resources"] = {**RESOURCES, **changed}
    return made


@st.composite
def near_workflows(draw: st.DrawFn) -> Any:
    factory: dict[str, Any] = {
        "name": "f",
        "type": draw(st.sampled_from(["parameterSweep", "zip", "repeat", "parametricSweep"])),
        "jobs": draw(st.sampled_from([["a"], ["b"], ["a", "a"], []])),
    }
    for key in draw(st.lists(st.sampled_from(["number", "num", "parameters"]))):
        factory[key] = draw(JSON)
    numbers: st.SearchStrategy[float] = st.integers(-5, 5) | st.floats(-10, 10)
    if draw(st.booleans()):
        factory["parameters"] = draw(
            st.lists(
                st.fixed_dictionaries(
                    {"name": st.sampled_from(["x", "y", "z"])},
                    optional={
                        "start": numbers,
                        "end": numbers,
                        "step": numbers,
                        "number": st.integers(0, 9),
                        "values": st.lists(SCALARS, max_size=3),
                    },
                ),
                max_size=3,
            )
        )
    made: dict[str, Any] = {"jobs": draw(st.lists(near_jobs(), max_size=2) | JSON), "factories": [factory]}
    if draw(st.booleans()):
        made["dependencies"] = draw(JSON | st.just({"a": ["a"]}) | st.just({"a": ["b"]}))
    return made


def check(parse: Any, value: Any) -> Any:
    try:
        return parse(value)
    except DocumentError as refusal:
        sentence = str(refusal)
    assert "\n" not in sentence
    assert 0 < len(sentence) < 1000
    return None


@CALM
@given(JSON | near_jobs())
def test_a_job_is_parsed_or_refused(value: Any) -> None:
    parsed = check(parse_job, value)
    if parsed is not None:
        unsupported(parsed)
        assert parse_job(normalise(value)) == parsed
        for task in parsed.tasks:
            task_argv(task, {"PROMINENCE_JOB_ID": "1"})


@CALM
@given(JSON | near_workflows())
def test_a_workflow_is_parsed_or_refused(value: Any) -> None:
    workflow = check(parse_workflow, value)
    if workflow is not None:
        for expanded in expand(workflow)[:50]:
            assert expanded.job.name == expanded.name


@CALM
@given(st.binary(max_size=200))
def test_bytes_are_loaded_or_refused(text: bytes) -> None:
    check(loads, text)


@CALM
@given(JSON)
def test_json_comes_back_as_it_was(value: Any) -> None:
    try:
        text = json.dumps(value).encode()
        loaded = loads(text)
    except DocumentError:
        return
    assert json.dumps(loaded) == json.dumps(value)


@CALM
@given(JSON | near_jobs() | near_workflows())
def test_secrets_are_put_back_where_they_were(value: Any) -> None:
    redacted, secrets = extract(value)
    assert json.dumps(restore(redacted, secrets)) == json.dumps(value)
    assert json.dumps(redact(redacted)) == json.dumps(redacted) == json.dumps(redact(value))


@CALM
@given(st.lists(TEXT.filter(lambda word: "$" not in word), min_size=1).filter(lambda words: words[0] != ""))
def test_words_arrive_exactly(words: list[str]) -> None:
    parsed = parse_job(job(tasks=[{"image": "busybox", "cmd": shlex.join(words)}]))
    assert task_argv(parsed.tasks[0], {"PROMINENCE_JOB_ID": "1"}) == tuple(words)


@CALM
@given(st.dictionaries(st.from_regex(r"[A-OQ-Z_a-z][A-Za-z0-9_]{0,8}", fullmatch=True), TEXT))
def test_environment_arrives_exactly(env: dict[str, str]) -> None:
    assert parse_job(job(tasks=[{"image": "busybox", "env": env}])).tasks[0].env == env


@CALM
@given(st.lists(TEXT | st.sampled_from(["$x", "${x}", "$y", "$$"])), TEXT, TEXT)
def test_substitution_is_one_pass_over_known_names(parts: list[str], x: str, y: str) -> None:
    text = "|".join(parts)
    expected = string.Template(text).safe_substitute(x=x, y=y)
    assert substitute(text, {"x": x, "y": y}, dollars=True) == expected
    assert substitute(text, {}) == text


@CALM
@given(st.lists(TEXT, min_size=1, max_size=5))
def test_no_value_adds_a_word(values: list[str]) -> None:
    document = {
        "name": "w",
        "jobs": [job(name="a", tasks=[{"image": "busybox", "cmd": "run --x=$x '$x' end"}])],
        "factories": [{"name": "f", "type": "zip", "jobs": ["a"], "parameters": [{"name": "x", "values": values}]}],
    }
    for expanded, value in zip(expand(parse_workflow(document)), values, strict=True):
        wanted = ("run", f"--x={value}", value, "end")
        assert task_argv(expanded.template.tasks[0], {}, expanded.texts) == wanted
        assert task_argv(expanded.job.tasks[0], {}) == wanted
