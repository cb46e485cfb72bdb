"""From bytes to JSON values, refusing what JSON parsers usually let pass."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

from airflow_prominence.documents.errors import DocumentError, path_of, quoted

MAX_DEPTH = 64
MAX_VALUES = 300_000
_MAX_INTEGER = 2**63 - 1


def loads(text: bytes) -> object:
    """Parse one JSON document, or raise DocumentError with one sentence."""
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError("", f"the document is not valid UTF-8 (byte {error.start})") from None
    try:
        value: object = json.loads(decoded, object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        sentence = f"the document is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        raise DocumentError("", sentence) from None
    except RecursionError:
        raise DocumentError("", f"the document is nested more than {MAX_DEPTH} levels deep") from None
    except DocumentError:
        raise
    except ValueError:
        # Python itself refuses to read integers of thousands of digits
        raise DocumentError("", "the document holds a number with too many digits") from None
    check_values(value)
    return value


def check_values(value: object) -> None:
    """Refuse what no later step could carry: NUL, lone surrogates, NaN, endless numbers, lists and nesting."""
    path: list[str | int] = []
    _check_scalar(value, path)
    levels = [_children(value, path)]
    count = 0
    while levels:
        step = next(levels[-1], None)
        if step is None:
            levels.pop()
            if path:
                path.pop()
            continue
        key, child = step
        path.append(key)
        count += 1
        if count > MAX_VALUES:
            raise DocumentError("", f"the document holds more than {MAX_VALUES} values")
        if isinstance(child, dict | list):
            if len(path) >= MAX_DEPTH:
                raise DocumentError("", f"the document is nested more than {MAX_DEPTH} levels deep")
            levels.append(_children(child, path))
        else:
            _check_scalar(child, path)
            path.pop()


def _check_scalar(item: object, path: list[str | int]) -> None:
    if item is None or isinstance(item, bool | dict | list):
        return
    if isinstance(item, str):
        _check_text(item, path)
    elif isinstance(item, int):
        if abs(item) > _MAX_INTEGER:
            raise DocumentError(path_of(path), "is too large a number")
    elif isinstance(item, float):
        if not math.isfinite(item):
            raise DocumentError(path_of(path), "must be a finite number")
    else:
        raise DocumentError(path_of(path), f"is not a JSON value but a Python {type(item).__name__}")


def _children(item: object, path: list[str | int]) -> Iterator[tuple[str | int, object]]:
    if isinstance(item, list):
        yield from enumerate(item)
    elif isinstance(item, dict):
        for key, child in item.items():
            if not isinstance(key, str):
                sentence = f"has a key that is not a string but a Python {type(key).__name__}"
                raise DocumentError(path_of(path), sentence)
            _check_text(key, path)
            yield key, child


def _check_text(text: str, path: list[str | int]) -> None:
    if "\0" in text:
        raise DocumentError(path_of(path), "cannot hold a NUL character")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise DocumentError(path_of(path), "holds half of a surrogate pair, which is not text") from None


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise DocumentError("", f"the key {quoted(key)} appears twice in one object")
            seen.add(key)
    return result


def _no_constant(name: str) -> object:
    raise DocumentError("", f"{name} is not a JSON value")
