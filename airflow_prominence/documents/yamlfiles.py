"""YAML as another way to write JSON: the values are JSON's, and nothing in a text can make it grow.

Scalars are read by YAML 1.2's core schema: ``yes`` and ``on`` are texts, as are dates. Tags, aliases and a second
document in the same text are refused.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from airflow_prominence.documents.errors import DocumentError, path_of, quoted
from airflow_prominence.documents.lines import LineError, Lines, line_of
from airflow_prominence.documents.loading import MAX_DEPTH, MAX_VALUES, check_values

_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_OTHER_BASE = re.compile(r"[-+]?0(?:[0-9_]+|[xob][0-9A-Fa-f_]+)")
_ENDLESS = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_MOST_DIGITS = 400
# Ten times as quick where PyYAML was built with libyaml, as its wheels are
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(text: str) -> tuple[object, Lines]:
    """The document in a text of YAML, and where its parts stand; raises LineError."""
    builder = _Builder()
    try:
        # By events, not by nodes: those are composed by functions that call themselves, however deep a text goes.
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        column = f" (column {mark.column + 1})" if mark else ""
        sentence = f"is not valid YAML: {error.problem or error.context}{column}"
        raise LineError("", sentence, mark.line + 1 if mark else None) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise LineError("", "holds a character that YAML does not allow", line) from None
    if not builder.documents:
        raise LineError("", "is empty", None)
    try:
        check_values(builder.value)
    except DocumentError as refused:
        raise LineError(refused.path, refused.sentence, line_of(refused.path, builder.lines)) from None
    return builder.value, builder.lines


class _Builder:
    """Puts values together from a parser's events; ``value`` is the document when all were taken."""

    def __init__(self) -> None:
        self.documents = 0
        self.value: object = None
        self.lines: dict[str, int] = {}
        self._open: list[dict[str, Any] | list[Any]] = []
        self._path: list[str | int] = []
        self._key: str | None = None
        self._count = 0

    def take(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise LineError("", "holds more than one YAML document", line)
        elif isinstance(event, yaml.AliasEvent):
            sentence = f"aliases as *{event.anchor} are not allowed: write the value out"
            raise LineError(path_of(self._where()), sentence, line)
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event, line)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._begin({} if isinstance(event, yaml.MappingStartEvent) else [], event, line)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._open.pop()
            if self._path:
                self._path.pop()

    def _scalar(self, event: Any, line: int) -> None:
        self._check(event, line)
        holder = self._open[-1] if self._open else None
        if isinstance(holder, dict) and self._key is None:
            key: str = event.value
            where = path_of([*self._path, key])
            if key in holder:
                raise LineError(where, "appears twice", line)
            self._key = key
            self.lines[where] = line
            return
        text: str = event.value
        where = path_of(self._where())
        try:
            value = _plain_value(text) if event.implicit[0] else text
        except ValueError as refused:
            raise LineError(where, str(refused), line) from None
        self.lines.setdefault(where, line)
        self._put(value)

    def _begin(self, value: dict[str, Any] | list[Any], event: Any, line: int) -> None:
        self._check(event, line)
        if self._open and isinstance(self._open[-1], dict) and self._key is None:
            raise LineError(path_of(self._path), "has a key that is not a text", line)
        if len(self._open) >= MAX_DEPTH:
            raise LineError("", f"the document is nested more than {MAX_DEPTH} levels deep", line)
        where = self._where()
        self.lines.setdefault(path_of(where), line)
        self._put(value)
        self._open.append(value)
        self._path = where

    def _check(self, event: Any, line: int) -> None:
        self._count += 1
        if self._count > 2 * MAX_VALUES:
            raise LineError("", f"the document holds more than {MAX_VALUES} values", line)
        if event.tag is not None:
            raise LineError(path_of(self._where()), f"tags as {quoted(event.tag)} are not allowed", line)

    def _where(self) -> list[str | int]:
        """The path of the value that comes next."""
        if not self._open:
            return []
        holder = self._open[-1]
        if isinstance(holder, list):
            return [*self._path, len(holder)]
        return self._path if self._key is None else [*self._path, self._key]

    def _put(self, value: object) -> None:
        if not self._open:
            self.value = value
        elif isinstance(holder := self._open[-1], list):
            holder.append(value)
        else:
            assert self._key is not None
            holder[self._key] = value
            self._key = None


def _plain_value(text: str) -> object:
    """A scalar without quotes; ValueError with a sentence where YAML's versions disagree or JSON has no such value."""
    if text in _WORDS:
        return _WORDS[text]
    if _OTHER_BASE.fullmatch(text):
        raise ValueError(
            f"{quoted(text, 20)} is not the same to all readers of YAML: put it in quotes, or write decimals"
        )
    if len(text) > _MOST_DIGITS:
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _ENDLESS.fullmatch(text):
        raise ValueError("must be a finite number")
    return text
