"""A job's storage: where it may be mounted, and what its owner may ask of the tool that mounts it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Final

from airflow_prominence.documents.commands import substitute
from airflow_prominence.documents.errors import DocumentError, path_of, quoted
from airflow_prominence.documents.files import Path, absolute_path, check_inside, check_url
from airflow_prominence.documents.model import Artifact, Storage, Task

_FLAGS: Final = frozenset({"-i", "--insecure", "--force-fullblock-read", "--force-proxy-io", "--no-buffer"})
_VALUED: Final = frozenset(
    {
        "--space",
        "--space-id",
        "--provider-timeout",
        "--metadata-cache-size",
        "--read-buffer-min-size",
        "--read-buffer-max-size",
        "--read-buffer-prefetch-duration",
        "--write-buffer-min-size",
        "--write-buffer-max-size",
        "--write-buffer-flush-delay",
    }
)
"""Options of oneclient that reach nothing of the machine on which it runs, often as root."""

_HOME: Final = "/home/user"
_DIRECTORY: Final = "prominence/$PROMINENCE_JOB_ID"
"""Where outputs go that a document gives no directory: each job has a folder of its own, as in the object store."""

_LONGEST_PART: Final = 255
_HOST = re.compile(r"[A-Za-z0-9.-]+|\[?[0-9A-Fa-f:.]+\]?")


def storage_of(doc: dict[str, Any], path: Path) -> Storage:
    kind: str = doc["type"]
    account: dict[str, str] = dict(doc[kind])
    mountpoint = absolute_path(doc["mountpoint"], (*path, "mountpoint"))
    if "directory" in doc:
        _check_directory(doc["directory"], doc.get("default", False), (*path, "directory"))
    if kind == "webdav":
        check_url(account["url"], (*path, kind, "url"))
        if "@" in account["url"].partition("://")[2].partition("/")[0]:
            sentence = "must not hold a user name or password: they have keys of their own"
            raise DocumentError(path_of((*path, kind, "url")), sentence)
    if kind == "onedata":
        _check_provider(account["provider"], (*path, kind, "provider"))
        _check_options(account.get("options", ""), (*path, kind, "options"))
    return Storage(kind, mountpoint, account, doc.get("default", False), doc.get("directory"))


def stored_path(storage: Storage, name: str) -> str:
    """Where a container has what an artifact's or image's name means on storage that is the default.

    A path below the mount point is meant as the container sees it, any other name as the storage's owner does.
    """
    if name.startswith("/") and _below(name, storage.mountpoint):
        return name
    return f"{storage.mountpoint}/{name.lstrip('/')}"


def output_folder(directory: str | None, substitutions: Mapping[str, str]) -> str:
    """Where on a job's storage its outputs go, relative to the storage's root, if they go there at all.

    ``substitutions`` are PROMINENCE_JOB_ID and, in a workflow, PROMINENCE_WORKFLOW_ID.
    """
    folder = substitute(_DIRECTORY if directory is None else directory, substitutions)
    return "/".join(part for part in folder.split("/") if part not in {"", "."})


def check_outputs_there(storage: Storage | None, outputs: bool, path: Path) -> None:
    """Refuse outputs for which OneData has no place: its root is a list of spaces."""
    if storage is None or not (storage.default and outputs) or storage.type != "onedata":
        return
    if not output_folder(storage.directory, {}) or storage.directory is None:
        sentence = "is missing: outputs need a folder on OneData, which begins with the name of a space"
        raise DocumentError(path_of((*path, "storage", "directory")), sentence)


def check_beside(storage: Storage | None, artifacts: Sequence[Artifact], path: Path) -> None:
    """Refuse mount points of which one would hide the other, or be made in the user's own storage."""
    if storage is None:
        return
    for index, artifact in enumerate(artifacts):
        if artifact.mount is None:
            continue
        folder, target = artifact.mount
        for place in (target, f"{_HOME}/{folder}"):
            if _below(place, storage.mountpoint) or _below(storage.mountpoint, place):
                sentence = f"takes {place}, and storage.mountpoint is {storage.mountpoint}: one would hide the other"
                raise DocumentError(path_of((*path, "artifacts", index, "mountpoint")), sentence)


def check_images(storage: Storage | None, tasks: Sequence[Task], path: Path) -> None:
    """Refuse images by path that are on no storage of the job: nothing of a node is an image."""
    for index, task in enumerate(tasks):
        if not task.image.startswith("/"):
            continue
        where = path_of((*path, "tasks", index, "image"))
        if storage is None:
            raise DocumentError(where, "is a path on attached storage, but the job has no storage")
        if not (storage.default or _below(task.image, storage.mountpoint)):
            raise DocumentError(where, f"is not on the job's storage, which is mounted at {storage.mountpoint}")


def _check_directory(directory: str, default: bool, path: Path) -> None:
    if not default:
        sentence = "is for outputs that go to this storage, and they do only if storage.default is true"
        raise DocumentError(path_of(path), sentence)
    check_inside(directory, path, absolute=True)
    if any(len(part.encode()) > _LONGEST_PART for part in directory.split("/")):
        raise DocumentError(path_of(path), f"has a part that is longer than {_LONGEST_PART} bytes")


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def _check_provider(provider: str, path: Path) -> None:
    if not _HOST.fullmatch(provider):
        raise DocumentError(path_of(path), "must be a host name, without scheme, port and path")
    check_url(f"https://[{provider.strip('[]')}]" if ":" in provider else f"https://{provider}", path)


def _check_options(options: str, path: Path) -> None:
    try:
        words = shlex.split(options)
    except ValueError:
        raise DocumentError(path_of(path), "has a quotation mark that is not closed") from None
    left = iter(words)
    for word in left:
        name, equals, value = word.partition("=")
        if word in _FLAGS:
            continue
        if name not in _VALUED:
            allowed = ", ".join(sorted(_FLAGS | _VALUED))
            raise DocumentError(path_of(path), f"cannot hold {quoted(name)}: allowed are {allowed}")
        value = value if equals else next(left, "")
        if not value or value.startswith("-"):
            raise DocumentError(path_of(path), f"{name} lacks its value")
