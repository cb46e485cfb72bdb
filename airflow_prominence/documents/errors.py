"""The one error of this package, and how its sentences write paths and values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


class DocumentError(ValueError):
    """A document is refused; ``str()`` is one sentence that names the path."""

    def __init__(self, path: str, sentence: str) -> None:
        self.path = path
        self.sentence = sentence
        super().__init__(f"{path}: {sentence}" if path else sentence)

    def __reduce__(self) -> tuple[type[DocumentError], tuple[str, str]]:
        return type(self), (self.path, self.sentence)


def quoted(value: object, limit: int = 60) -> str:
    """Show a submitted value inside a sentence: on one line, never longer than the sentence can bear."""
    if isinstance(value, str):
        text = json.dumps(value[: limit + 1], ensure_ascii=not value[: limit + 1].isprintable())
        return text if len(value) <= limit else text[:limit] + '…"'
    text = json.dumps(value)
    return text if len(text) <= limit else text[:limit] + "…"


def path_of(parts: Iterable[str | int]) -> str:
    """Write a path: ``jobs[2].resources.cpus``, keys that would be hard to read in quotes."""
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part):
            path += f".{part}" if path else part
        else:
            path += f"[{quoted(part)}]"
    return path
