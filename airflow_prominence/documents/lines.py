"""Where in a text the parts of a JSON document stand: refusals can then name a line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from airflow_prominence.documents.errors import DocumentError, path_of
from airflow_prominence.documents.loading import loads

_TOKEN = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|([{}\[\]:,])|([^\s{}\[\]:,"]+))')
_SYNTAX = re.compile(r"the document is not valid JSON: (.*) \(line (\d+), column (\d+)\)")

Lines = Mapping[str, int]
"""Lines, counted from 1, by paths as refusals write them; the whole document's is that of the path ''."""


class LineError(DocumentError):
    """A text is refused at a line that is known already."""

    def __init__(self, path: str, sentence: str, line: int | None) -> None:
        self.line = line
        super().__init__(path, sentence)

    def __reduce__(self) -> tuple[type[LineError], tuple[str, str, int | None]]:  # type: ignore[override]
        return type(self), (self.path, self.sentence, self.line)


def line_of(path: str, lines: Lines) -> int | None:
    """The line of a path, or of the nearest thing around it that stands in the text."""
    while path not in lines:
        if not path:
            return None
        # A key in quotes may hold dots and brackets of its own; then the search only takes more steps.
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return lines[path]


def read_json(text: str) -> tuple[object, Lines]:
    """The document in a text of JSON, and where its parts stand; raises LineError."""
    try:
        value = loads(text.encode())
    except DocumentError as refused:
        if syntax := _SYNTAX.fullmatch(refused.sentence):
            raise LineError("", f"is not valid JSON: {syntax[1]} (column {syntax[3]})", int(syntax[2])) from None
        lines, twice = _lines(text)
        if twice is not None:
            raise LineError(twice[0], "appears twice", twice[1]) from None
        raise LineError(refused.path, refused.sentence, line_of(refused.path, lines)) from None
    return value, _lines(text)[0]


def _lines(text: str) -> tuple[dict[str, int], tuple[str, int] | None]:
    """The lines of a text that is JSON, and the first key that stands twice in its object."""
    lines: dict[str, int] = {}
    twice: tuple[str, int] | None = None
    path: list[str | int] = []
    line, seen = 1, 0
    # Each open object or list is a part of the path: its latest key or index.
    is_list: list[bool] = []
    wants_key = False
    for token in _TOKEN.finditer(text):
        start = token.start(token.lastindex or 0)
        line += text.count("\n", seen, start)
        seen = start
        string, mark, _ = token.groups()
        if mark in ("}", "]"):
            is_list.pop()
            path.pop()
            wants_key = False
            continue
        if mark == ",":
            wants_key = not is_list[-1]
            if is_list[-1]:
                path[-1] = int(path[-1]) + 1
            continue
        if mark == ":":
            continue
        if string is not None and wants_key:
            path[-1] = json.loads(string)
            where = path_of(path)
            if where in lines and twice is None:
                twice = where, line
            lines[where] = line
            wants_key = False
            continue
        lines.setdefault(path_of(path), line)
        if mark == "{":
            is_list.append(False)
            path.append("")
            wants_key = True
        elif mark == "[":
            is_list.append(True)
            path.append(0)
    return lines, twice
