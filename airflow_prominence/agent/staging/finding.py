"""What the name of an output means in a job's folders: a path, or a pattern for several."""

from __future__ import annotations

import fnmatch
import os
import posixpath
import stat
from typing import Iterator, Mapping

from ..runtimes.base import HOME
from ..within import FOLDER, NotThere, Walk, why

#: A pattern that means more is a mistake, such as one for all of an unpacked archive.
MOST = 1000

_SHOWN = 10


def find(roots: Mapping[str, str], name: str, folders: bool) -> list[str]:
    """The paths below the job's home that `name` means, sorted: files, or else `folders`.

    What is named letter by letter is meant before what it would mean as a pattern. Raises NotThere.
    """
    try:
        _check(roots, name, folders)
        return [posixpath.normpath(name)]
    except NotThere as error:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if not any(_is_pattern(part) for part in parts):
            raise NotThere(f"{error}{_there_is(roots)}") from error
    found = []
    for path in _matches(roots, "", parts):
        if _is_there(roots, path, folders):
            found.append(path)
        if len(found) > MOST:
            raise NotThere(f"{name}: means more than {MOST} {_kind(folders)}s")
    if not found:
        raise NotThere(f"{name}: no {_kind(folders)} is called so{_there_is(roots)}")
    return sorted(found)


def open_file(roots: Mapping[str, str], path: str) -> int:
    """A descriptor of a file below the job's home; raises NotThere."""
    walk = Walk(roots, posixpath.join(HOME, path), path)
    try:
        folder, last = walk.go()
        return os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        raise NotThere(f"{path}: {why(error)}") from error
    finally:
        walk.close()


def _check(roots: Mapping[str, str], path: str, folders: bool) -> None:
    """Raise NotThere if there is nothing of this kind."""
    walk = Walk(roots, posixpath.join(HOME, path), path)
    try:
        folder, last = walk.go()
        mode = os.lstat(last, dir_fd=folder).st_mode
    except OSError as error:
        raise NotThere(f"{path}: {why(error)}") from error
    finally:
        walk.close()
    if stat.S_ISDIR(mode) != folders or not (folders or stat.S_ISREG(mode)):
        what = "a folder" if stat.S_ISDIR(mode) else "a file" if stat.S_ISREG(mode) else "neither a file nor a folder"
        raise NotThere(f"{path}: is {what}, not a {_kind(folders)}")


def _is_there(roots: Mapping[str, str], path: str, folders: bool) -> bool:
    try:
        _check(roots, path, folders)
    except NotThere:
        return False
    return True


def _matches(roots: Mapping[str, str], above: str, parts: list[str]) -> Iterator[str]:
    if not parts:
        yield above
        return
    first, rest = parts[0], parts[1:]
    if not _is_pattern(first):
        yield from _matches(roots, posixpath.join(above, first), rest)
        return
    for entry in _listed(roots, above):
        # as shells do it, what is hidden must be meant
        if fnmatch.fnmatchcase(entry, first) and (first.startswith(".") or not entry.startswith(".")):
            yield from _matches(roots, posixpath.join(above, entry), rest)


def _listed(roots: Mapping[str, str], path: str) -> list[str]:
    walk = Walk(roots, posixpath.join(HOME, path), path)
    try:
        folder, last = walk.go()
        fd = os.open(last, FOLDER, dir_fd=folder)
        try:
            return sorted(os.listdir(fd))
        finally:
            os.close(fd)
    except (NotThere, OSError):
        return []
    finally:
        walk.close()


def _is_pattern(part: str) -> bool:
    return any(letter in part for letter in "*?[")


def _kind(folders: bool) -> str:
    return "folder" if folders else "file"


def _there_is(roots: Mapping[str, str]) -> str:
    """What the home holds, since a name that is nearly right is the usual mistake."""
    names = [name for name in _listed(roots, "") if not name.startswith(".")]
    if not names:
        return "; the job's home is empty"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"; the job's home holds {', '.join(names[:_SHOWN])}{more}"
