"""A job's storage: where it may be mounted, and what its owner may ask of the tool that mounts it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any, Final

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
_HOST = re.compile(r"[A-Za-z0-9.-]+|\[?[0-9A-Fa-f:.]+\]?")


def storage_of(doc: dict[str, Any], path: Path) -> Storage:
    kind: str = doc["type"]
    account: dict[str, str] = dict(doc[kind])
    mountpoint = absolute_path(doc["mountpoint"], (*path, "mountpoint"))
    if doc.get("default", False) and kind != "onedata":
        raise DocumentError(path_of((*path, "default")), "can be true for onedata only")
    if "directory" in doc:
        check_inside(doc["directory"], (*path, "directory"), absolute=True)
    if kind == "webdav":
        check_url(account["url"], (*path, kind, "url"))
        if "@" in account["url"].partition("://")[2].partition("/")[0]:
            sentence = "must not hold a user name or password: they have keys of their own"
            raise DocumentError(path_of((*path, kind, "url")), sentence)
    if kind == "onedata":
        _check_provider(account["provider"], (*path, kind, "provider"))
        _check_options(account.get("options", ""), (*path, kind, "options"))
    return Storage(kind, mountpoint, account, doc.get("default", False), doc.get("directory"))


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
        if not _below(task.image, storage.mountpoint):
            raise DocumentError(where, f"is not on the job's storage, which is mounted at {storage.mountpoint}")


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
