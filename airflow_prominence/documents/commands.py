"""The contract's substitutions: $NAME and ${NAME}, known names only, in one pass, never by a shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping

from airflow_prominence.documents.model import Task

_NAME = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")
_NAME_OR_DOLLAR = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\}|\$)")

_NOTHING: Mapping[str, str] = {}


def substitute(text: str, values: Mapping[str, str], *, dollars: bool = False) -> str:
    """Replace the names in ``values``; what is put in is not looked at again, and all else stays as it is.

    ``dollars`` makes ``$$`` a plain dollar sign, as it is in jobs that a factory with parameters makes.
    """

    def replacement(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        return "$" if name is None else values.get(name, match[0])

    return (_NAME_OR_DOLLAR if dollars else _NAME).sub(replacement, text)


def changed_command(cmd: str, change: Callable[[str], str]) -> str:
    """The command with each of its words changed: one with blanks or quotes then stays one word."""
    changed = change(cmd)
    words = [change(word) for word in shlex.split(cmd)]
    return changed if _splits_into(changed, words) else shlex.join(words)


def _splits_into(cmd: str, words: list[str]) -> bool:
    try:
        return shlex.split(cmd) == words
    except ValueError:
        return False


def names_in(text: str) -> Iterator[str]:
    """The names that ``substitute`` would look for, in order, as often as they stand there."""
    return (match[1] or match[2] for match in _NAME.finditer(text))


def task_argv(
    task: Task, substitutions: Mapping[str, str], parameters: Mapping[str, str] = _NOTHING
) -> tuple[str, ...] | None:
    """Words to execute, or None for the image's own entrypoint.

    The command is split first, so that no value can add a word. ``substitutions`` are PROMINENCE_JOB_ID and, in a
    workflow, PROMINENCE_WORKFLOW_ID; ``parameters`` are those of the factory that made the job.
    """
    if task.cmd is None:
        return None
    values = {**parameters, **substitutions}
    return tuple(substitute(word, values, dollars=bool(parameters)) for word in shlex.split(task.cmd))


def task_workdir(task: Task, substitutions: Mapping[str, str]) -> str | None:
    """The working directory with its ids filled in."""
    return None if task.workdir is None else substitute(task.workdir, substitutions)
