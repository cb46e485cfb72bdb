"""Inputs, artifacts and outputs: names and URLs that must stay where they belong."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from airflow_prominence.documents.errors import DocumentError, path_of, quoted
from airflow_prominence.documents.limits import Limits
from airflow_prominence.documents.model import Artifact, Input

Path = tuple[str | int, ...]

_AFTER_SCHEME = re.compile(r"//[^/:]+:[0-9]{1,5}/")
_TAKEN = frozenset({"/home/user", "/tmp", "/proc", "/sys", "/dev"})  # noqa: S108 - in the container
_KERNELS = ("/proc/", "/sys/", "/dev/")
_LONGEST_OUTPUT = 1024

_BASE64_BLANKS = str.maketrans("", "", " \t\r\n")


def inputs_of(docs: list[dict[str, Any]], path: Path, limits: Limits) -> tuple[Input, ...]:
    inputs: list[Input] = []
    seen: dict[str, int] = {}
    for index, doc in enumerate(docs):
        where = (*path, index)
        name: str = doc["filename"]
        if "/" in name or name in {".", ".."}:
            raise DocumentError(path_of((*where, "filename")), "must be a plain file name without folders")
        if len(name.encode()) > 255:
            raise DocumentError(path_of((*where, "filename")), "is longer than 255 bytes")
        if name in seen:
            sentence = f"is the same as that of inputs[{seen[name]}]: two files cannot have one name (duplicate)"
            raise DocumentError(path_of((*where, "filename")), sentence)
        seen[name] = index
        inputs.append(_input_of(doc, where, limits))
    return tuple(inputs)


def artifacts_of(docs: list[dict[str, Any]], path: Path, *, stored: bool = False) -> tuple[Artifact, ...]:
    """``stored`` if what has no URL is on the job's storage."""
    artifacts: list[Artifact] = []
    seen: dict[str, int] = {}
    for index, doc in enumerate(map(mended_artifact, docs)):
        url: str = doc["url"]
        check_artifact_url(url, (*path, index, "url"), stored=stored)
        mount: tuple[str, str] | None = None
        if "mountpoint" in doc:
            mount = _mount_of(doc["mountpoint"], (*path, index, "mountpoint"))
            if mount[1] in seen:
                sentence = f"is the same as that of artifacts[{seen[mount[1]]}] (duplicate)"
                raise DocumentError(path_of((*path, index, "mountpoint")), sentence)
            seen[mount[1]] = index
        artifacts.append(Artifact(url, mount, doc.get("executable", False)))
    return tuple(artifacts)


def mended_artifact(doc: dict[str, Any]) -> dict[str, Any]:
    """Return an artifact as it was meant: the released client takes what follows a host's port for a mount point.

    ``--artifact http://host:8080/x.tgz`` arrives as the URL ``http`` and the mount point ``//host:8080/x.tgz``.
    """
    mountpoint = doc.get("mountpoint", "")
    if doc["url"] in {"http", "https"} and _AFTER_SCHEME.match(mountpoint):
        return {
            **{key: value for key, value in doc.items() if key != "mountpoint"},
            "url": f"{doc['url']}:{mountpoint}",
        }
    return doc


def _mount_of(text: str, path: Path) -> tuple[str, str]:
    if text.startswith("//"):
        sentence = (
            "must be FOLDER:/absolute/path; the prominence command loses it after a URL, so submit such an artifact "
            "in a JSON document (prominence run)"
        )
        raise DocumentError(path_of(path), sentence)
    folder, _, target = text.partition(":")
    if folder in {".", ".."}:
        raise DocumentError(path_of(path), "must start with the name of a folder")
    return folder, absolute_path(target, path)


def absolute_path(text: str, path: Path) -> str:
    """Return where in the container something is mounted, in its shortest form."""
    check_inside(text, path, absolute=True)
    target = "/" + "/".join(part for part in text.split("/") if part not in {"", "."})
    if target == "/":
        raise DocumentError(path_of(path), "cannot be the root of the container")
    if target in _TAKEN or target.startswith(_KERNELS):
        raise DocumentError(path_of(path), f"cannot be {target}, which every container has already")
    return target


def check_artifact_url(url: str, path: Path, *, stored: bool = False) -> None:
    """An http(s) URL, or the name of an uploaded object, or (``stored``) a path on the job's storage."""
    if "://" not in url:
        check_inside(url.lstrip("/") if stored else url, path)
        return
    check_url(url, path)
    if "@" in urlsplit(url).netloc:
        raise DocumentError(path_of(path), "must not hold a user name or password: use a presigned URL or an upload")


def artifact_file_name(url: str) -> str:
    """Return the plain name under which an artifact comes into the job's folder: the last one of its URL's path."""
    path = urlsplit(url).path if "://" in url else url
    name = unquote(path.rstrip("/").rpartition("/")[2]).rpartition("/")[2].replace("\0", "")
    if name in {"", ".", ".."}:
        return "artifact"
    # the end says what it is
    return name.encode()[-255:].decode(errors="ignore")


def check_outputs(files: Sequence[str], directories: Sequence[str], path: Path) -> None:
    """Outputs are kept under their last name alone, so no two may share it."""
    kept: dict[str, str] = {}
    for key, names, suffix in (("outputFiles", files, ""), ("outputDirs", directories, ".tgz")):
        for index, name in enumerate(names):
            where = path_of((*path, key, index))
            check_inside(name, (*path, key, index))
            if len(name.encode()) > _LONGEST_OUTPUT:
                raise DocumentError(where, f"is longer than {_LONGEST_OUTPUT} bytes")
            last = name.rstrip("/").rpartition("/")[2] + suffix
            if last in kept:
                raise DocumentError(where, f"would be kept as {quoted(last)}, as {kept[last]} would (duplicate)")
            kept[last] = where


def check_inside(name: str, path: Path, *, absolute: bool = False) -> None:
    """Refuse a path that climbs out of its folder, and an absolute one where it must be relative."""
    if name.startswith("/") and not absolute:
        raise DocumentError(path_of(path), "must not be an absolute path")
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise DocumentError(path_of(path), "must not contain .. as a part of the path")
    if not parts and not absolute:
        raise DocumentError(path_of(path), "must name a file or folder")


def check_url(url: str, path: Path) -> None:
    """Refuse URLs that are not http(s) or that name a link-local address, where clouds keep credentials."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        raise DocumentError(path_of(path), "is not a valid URL") from None
    if parts.scheme not in {"http", "https"}:
        raise DocumentError(path_of(path), f"must be an http or https URL, not {quoted(url.partition(':')[0])}")
    if not host:
        raise DocumentError(path_of(path), "has no host name")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return
    if address.is_link_local:
        raise DocumentError(path_of(path), "must not name a link-local address")


def _input_of(doc: dict[str, Any], path: Path, limits: Limits) -> Input:
    where = path_of((*path, "content"))
    # `base64 FILE` wraps its lines
    content: str = doc["content"].translate(_BASE64_BLANKS)
    if len(content) // 4 * 3 - 2 > limits.max_input_bytes:
        raise DocumentError(where, f"is too large: at most {limits.max_input_bytes} bytes are allowed in one input")
    try:
        size = len(base64.b64decode(content, validate=True))
    except (binascii.Error, ValueError):
        raise DocumentError(where, "is not valid base64") from None
    if size > limits.max_input_bytes:
        raise DocumentError(where, f"is too large: at most {limits.max_input_bytes} bytes are allowed in one input")
    return Input(doc["filename"], content, size, doc.get("executable", False))
