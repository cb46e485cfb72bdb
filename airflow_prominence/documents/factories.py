"""Factories: checked and counted before anything is made, so that a sweep of a thousand million points is cheap."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator
from fractions import Fraction
from typing import Any

from airflow_prominence.documents.errors import DocumentError, path_of, quoted
from airflow_prominence.documents.limits import Limits
from airflow_prominence.documents.model import Factory, Parameter

Path = tuple[str | int, ...]
Value = int | float | str

MAX_DIMENSIONS = 4
_OLD_SWEEP = "parametricSweep"


def factories_of(doc: dict[str, Any], names: Collection[str], limits: Limits) -> tuple[Factory, ...]:
    """The factories of a workflow document that has passed the schema; ``names`` are those of its jobs."""
    if "factory" in doc:
        # The manual's example of a sweep: one factory over all jobs
        old = {"name": "factory", **doc["factory"], "jobs": list(names)}
        return (_factory_of(old, ("factory",), names, limits),)
    return tuple(
        _factory_of(factory, ("factories", index), names, limits)
        for index, factory in enumerate(doc.get("factories", []))
    )


def count_of(factory: Factory) -> int:
    """How many jobs the factory makes of each of its templates."""
    if factory.type == "repeat":
        return factory.number or 0
    counts = [_values_count(parameter) for parameter in factory.parameters]
    return counts[0] if factory.type == "zip" else math.prod(counts)


def points_of(factory: Factory) -> Iterator[dict[str, Value]]:
    """The parameters of each job, in order: the last parameter of a sweep varies fastest."""
    names = [parameter.name for parameter in factory.parameters]
    if factory.type == "repeat":
        yield from ({} for _ in range(factory.number or 0))
        return
    columns = [[_value(parameter, i) for i in range(_values_count(parameter))] for parameter in factory.parameters]
    rows = zip(*columns, strict=True) if factory.type == "zip" else itertools.product(*columns)
    for row in rows:
        yield dict(zip(names, row, strict=True))


def value_text(value: Value) -> str:
    """A parameter's value as it is put into commands and variables: whole numbers without decimals."""
    return value if isinstance(value, str) else str(_tidy(value))


def count_text(count: int) -> str:
    """A count as a sentence can bear it: a tiny step makes one of hundreds of digits."""
    return str(count) if count < 10**15 else "more than 10^15"


def longest_value(parameter: Parameter) -> int:
    """Bytes of the longest text the parameter may be replaced by."""
    if parameter.values is not None:
        return max(len(value_text(value).encode()) for value in parameter.values)
    # Whole numbers are written out, however large their power of ten
    return max(len(value_text(edge)) for edge in (parameter.start, parameter.end)) + 24


def _factory_of(doc: dict[str, Any], path: Path, names: Collection[str], limits: Limits) -> Factory:
    for index, name in enumerate(doc["jobs"]):
        if name not in names:
            raise DocumentError(path_of((*path, "jobs", index)), f"names an unknown job {quoted(name)}")
    kind: str = "parameterSweep" if doc["type"] == _OLD_SWEEP else doc["type"]
    parameters = tuple(
        _parameter_of(parameter, kind, (*path, "parameters", index))
        for index, parameter in enumerate(doc.get("parameters", []))
    )
    _check_parameters(parameters, kind, (*path, "parameters"))
    number = doc.get("number", doc.get("num"))
    factory = Factory(
        name=doc["name"],
        type=kind,
        jobs=tuple(dict.fromkeys(doc["jobs"])),
        parameters=parameters,
        number=None if number is None else int(number),
    )
    if (count := count_of(factory)) > limits.max_jobs:
        raise DocumentError(path_of(path), f"makes too many jobs: {count_text(count)}, the limit is {limits.max_jobs}")
    return factory


def _parameter_of(doc: dict[str, Any], kind: str, path: Path) -> Parameter:
    name: str = doc["name"]
    if name.startswith("PROMINENCE_"):
        raise DocumentError(path_of((*path, "name")), "cannot start with PROMINENCE_, which is reserved")
    if kind == "zip":
        return Parameter(name, values=tuple(_tidy(value) for value in doc["values"]))
    start, end, step, number = doc["start"], doc["end"], doc.get("step"), doc.get("number")
    if step is not None and end < start:
        raise DocumentError(path_of((*path, "end")), "must be at least start")
    if not math.isfinite(end - start):
        raise DocumentError(path_of((*path, "end")), "is too far from start")
    return Parameter(name, start, end, step, None if number is None else int(number))


def _check_parameters(parameters: tuple[Parameter, ...], kind: str, path: Path) -> None:
    if kind == "parameterSweep" and len(parameters) > MAX_DIMENSIONS:
        sentence = f"has too many dimensions: a sweep can have at most {MAX_DIMENSIONS} parameters"
        raise DocumentError(path_of(path), sentence)
    seen: dict[str, int] = {}
    for index, parameter in enumerate(parameters):
        if parameter.name in seen:
            sentence = f"{quoted(parameter.name)} appears twice: parameter names must be unique"
            raise DocumentError(path_of((*path, index, "name")), sentence)
        seen[parameter.name] = index
        lengths = len(parameter.values or ()), len(parameters[0].values or ())
        if kind == "zip" and lengths[0] != lengths[1]:
            sentence = f"has {lengths[0]} values where {quoted(parameters[0].name)} has {lengths[1]}"
            raise DocumentError(path_of((*path, index, "values")), f"{sentence}: lists must have the same length")


def _values_count(parameter: Parameter) -> int:
    if parameter.values is not None:
        return len(parameter.values)
    if parameter.number is not None:
        return parameter.number
    assert parameter.step is not None
    # As the decimals say it: 0 to 0.3 by 0.1 are four values, though 3 * 0.1 > 0.3 in binary
    start, end, step = (Fraction(repr(x)) for x in (parameter.start, parameter.end, parameter.step))
    return math.floor((end - start) / step) + 1


def _value(parameter: Parameter, index: int) -> Value:
    if parameter.values is not None:
        return parameter.values[index]
    if parameter.number is None:
        assert parameter.step is not None
        return _tidy(parameter.start + index * parameter.step)
    if index == parameter.number - 1 and index > 0:
        return _tidy(parameter.end)
    return _tidy(parameter.start + index * (parameter.end - parameter.start) / max(parameter.number - 1, 1))


def _tidy(value: Value) -> Value:
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    return value
