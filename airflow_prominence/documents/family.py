"""Artifacts that are outputs of jobs further up in the workflow: ``<job>/<file>``, of a factory's jobs all of them.

Nothing but the workflow's document decides whether an artifact is one: when it is submitted, and when a job starts.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from airflow_prominence.documents.commands import substitute

_GLOB = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Gathered:
    """The outputs that an artifact means: ``file`` of the job ``member``, or of those that a factory makes of it.

    ``instance`` is the number of the one of a factory's jobs that it names, ``None`` if it means all of them.
    """

    member: str
    file: str
    factory: bool
    instance: int | None = None

    @property
    def is_of_all(self) -> bool:
        return self.factory and self.instance is None


@dataclass(frozen=True, slots=True)
class Asked:
    """An output as a document asks for it: its kind (``file`` or ``dir``) and its name, which may be a pattern."""

    kind: str
    name: str

    @property
    def names(self) -> tuple[str, ...]:
        """What an artifact may call it: as it is written, by its last name, and as it is kept."""
        last = posixpath.basename(self.name.rstrip("/"))
        return (self.name, last, f"{last}.tgz") if self.kind == "dir" else (self.name, last)

    @property
    def is_pattern(self) -> bool:
        return bool(_GLOB & set(self.name))

    def fits(self, text: str) -> bool:
        """Tell whether it may become an output of this name."""
        return any(text == name or _fits(text, name) for name in self.names)


class Family:
    """The jobs of a workflow's normalised document, as they see each other's outputs."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._jobs: dict[str, Mapping[str, Any]] = {job["name"]: job for job in document["jobs"]}
        self._parents: dict[str, list[str]] = {}
        for parent, children in document.get("dependencies", {}).items():
            for child in children:
                self._parents.setdefault(child, []).append(parent)
        self._parameters: dict[str, tuple[str, ...]] = {}
        for factory in document.get("factories", ()):
            names = tuple(parameter["name"] for parameter in factory.get("parameters", ()))
            self._parameters.update((job, names) for job in factory["jobs"])

    def __contains__(self, member: str) -> bool:
        return member in self._jobs

    def is_above(self, member: str, child: str) -> bool:
        """Tell whether ``child`` depends on ``member``, if by way of others."""
        seen, waiting = {child}, [child]
        while waiting:
            for parent in self._parents.get(waiting.pop(), ()):
                if parent == member:
                    return True
                if parent not in seen:
                    seen.add(parent)
                    waiting.append(parent)
        return False

    def gathered(self, url: str, child: str) -> Gathered | None:
        """Return what an artifact of ``child`` means if that is an output of a job above, and ``None`` otherwise.

        ``url`` has the parameters of the child put in. What lies on storage that is ``default`` is none.
        """
        member, _, file = url.partition("/")
        if "://" in url or not file or member not in self._jobs or self.is_stored(child):
            return None
        if not self.is_above(member, child):
            return None
        if member in self._parameters:
            number, _, rest = file.partition("/")
            if number.isascii() and number.isdigit() and self._may_keep(member, rest):
                return Gathered(member, rest, True, int(number))
        return Gathered(member, file, member in self._parameters) if self._may_keep(member, file) else None

    def is_stored(self, member: str) -> bool:
        """Tell whether a job's outputs go to its user's own storage."""
        return bool(self._jobs[member].get("storage", {}).get("default"))

    def outputs(self, member: str, parameters: Mapping[str, str]) -> Iterator[Asked]:
        """Yield the outputs of a job that was made with these parameters."""
        for kind, key in (("file", "outputFiles"), ("dir", "outputDirs")):
            for name in self._jobs[member].get(key, ()):
                yield Asked(kind, substitute(name, parameters, dollars=True) if parameters else name)

    def meant(self, gathered: Gathered, parameters: Mapping[str, str]) -> tuple[str, list[Asked]]:
        """Return the name that is meant of a job that was made with these parameters, and what may have become it."""
        file = substitute(gathered.file, parameters, dollars=True) if parameters else gathered.file
        return file, [asked for asked in self.outputs(gathered.member, parameters) if asked.fits(file)]

    def _may_keep(self, member: str, file: str) -> bool:
        """Tell whether any values of its parameters make the job keep something of this name."""
        anything = dict.fromkeys(self._parameters.get(member, ()), "*")
        return bool(file) and any(asked.fits(file) for asked in self.outputs(member, anything))


def _fits(text: str, pattern: str) -> bool:
    """As a shell does: no pattern reaches over a slash."""
    words, patterns = text.split("/"), pattern.split("/")
    return len(words) == len(patterns) and all(map(fnmatchcase, words, patterns))
