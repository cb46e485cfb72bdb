"""An assignment as the API hands it out, checked once and then frozen."""

from __future__ import annotations

import json
import posixpath
from dataclasses import dataclass, field
from typing import Any, Mapping

from .addresses import Allowed
from .storage.model import Volume
from .storage.model import parse as parse_volume


class BadAssignment(ValueError):
    """One sentence that names the field."""


@dataclass(frozen=True)
class Input:
    filename: str
    content: str
    executable: bool


@dataclass(frozen=True)
class Artifact:
    """`mount` is (folder in the job's home, path in the container); `ours` has a URL that the API has signed.

    `stored` is the path in the container of one on the job's storage, which has no URL. `folder` is where below the
    job's home it comes, the home itself if empty. `missing` says why it can't be had, where the API knows already.
    """

    url: str = field(repr=False)
    filename: str
    mount: tuple[str, str] | None
    executable: bool
    sha256: str | None
    ours: bool
    stored: str | None
    folder: str = ""
    missing: str | None = None


@dataclass(frozen=True)
class Output:
    """A file or folder to be stored; `name` is as the document wrote it, a path or pattern below the job's home."""

    kind: str
    name: str

    @property
    def is_folder(self) -> bool:
        return self.kind == "dir"

    @property
    def file(self) -> str:
        """Its name in the store, unless it is a pattern."""
        return posixpath.basename(posixpath.normpath(self.name)) + (".tgz" if self.is_folder else "")


@dataclass(frozen=True)
class Outputs:
    """What is stored after the tasks, in which folder of the object store, and where to ask for URLs.

    Or in which folder of the job's storage, if `on_volume`. What they are read from is kept for `keep_s` seconds after
    the job's end.
    """

    wanted: tuple[Output, ...]
    folder: str
    url: str
    on_volume: bool = False
    keep_s: float = 0.0


NO_OUTPUTS = Outputs((), "", "")


@dataclass(frozen=True)
class Credential:
    username: str
    token: str


@dataclass(frozen=True)
class Task:
    image: str
    runtime: str
    argv: tuple[str, ...] | None
    env: Mapping[str, str]
    workdir: str | None
    type: str
    credential: Credential | None
    sha256: str | None = None  # what the image must be
    image_url: str | None = None  # where the user's uploaded image is
    image_refusal: str | None = None  # why the image may not be had, found out when the job was placed
    app: str | None = None
    stdout: str | None = None  # below the home, where a copy of its standard output goes

    @property
    def is_sidecar(self) -> bool:
        return self.type == "sidecar"


@dataclass(frozen=True)
class Resources:
    cpus: int
    memory_mb: int
    disk_mb: int
    walltime_s: float


@dataclass(frozen=True)
class Assignment:
    lease: str
    job: int
    attempt: int
    nodes: int
    token: str
    job_token: str  # what the job itself gets: it must not be able to report in our name
    report_url: str
    resources: Resources
    owner: str
    inputs: tuple[Input, ...]
    artifacts: tuple[Artifact, ...]
    outputs: Outputs
    tasks: tuple[Task, ...]
    task_retries: int
    ignore_task_failures: bool
    env: Mapping[str, str]
    allowed: Allowed  # what artifacts and images may come from, and where storage may be
    storage: Volume | None
    holds: bool = False  # whether to wait at the border of each phase until the API lets the job go on


def _get(where: str, raw: Mapping[str, Any], key: str, kind: type) -> Any:
    value = raw.get(key)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadAssignment(f"{where}{key}: must be of type {kind.__name__}")
    return value


def _strings(where: str, raw: Any) -> dict[str, str]:
    if not isinstance(raw, dict) or not all(isinstance(k, str) and isinstance(v, str) for k, v in raw.items()):
        raise BadAssignment(f"{where}: must map strings to strings")
    for key, value in raw.items():
        if not key or "=" in key or "\0" in key or "\0" in value:
            raise BadAssignment(f"{where}.{key}: can't be in an environment")
    return dict(raw)


def _is_argv(raw: Any) -> bool:
    return isinstance(raw, list) and bool(raw) and all(isinstance(word, str) and "\0" not in word for word in raw)


def _task(index: int, raw: Any) -> Task:
    where = f"tasks[{index}]."
    if not isinstance(raw, dict):
        raise BadAssignment(f"tasks[{index}]: must be an object")
    argv = raw.get("argv")
    if argv is not None and not _is_argv(argv):
        raise BadAssignment(f"{where}argv: must be null or a list of strings")
    credential = raw.get("credential")
    if credential is not None:
        credential = Credential(
            _get(where + "credential.", credential, "username", str),
            _get(where + "credential.", credential, "token", str),
        )
    workdir = raw.get("workdir")
    if workdir is not None and (not isinstance(workdir, str) or "\0" in workdir):
        raise BadAssignment(f"{where}workdir: must be null or a path")
    kind = raw.get("type", "basic")
    if kind not in ("basic", "sidecar"):
        raise BadAssignment(f"{where}type: {kind!r} is not supported by this agent")
    return Task(
        image=_get(where, raw, "image", str),
        runtime=_get(where, raw, "runtime", str),
        argv=None if argv is None else tuple(argv),
        env=_strings(where + "env", raw.get("env") or {}),
        workdir=workdir,
        type=kind,
        credential=credential,
        **{key: _text_or_none(where, raw, key) for key in ("sha256", "image_url", "image_refusal", "app", "stdout")},
    )


def _artifact(index: int, raw: Any) -> Artifact:
    where = f"artifacts[{index}]."
    if not isinstance(raw, dict):
        raise BadAssignment(f"artifacts[{index}]: must be an object")
    filename: str = _get(where, raw, "filename", str)
    _check_name(where + "filename", filename)
    mountpoint = raw.get("mountpoint")
    mount = None
    if mountpoint is not None:
        folder, colon, path = str(mountpoint).partition(":")
        _check_name(where + "mountpoint", folder)
        if not colon or not path.startswith("/"):
            raise BadAssignment(f"{where}mountpoint: must be FOLDER:/absolute/path")
        mount = folder, path
    sha256 = raw.get("sha256")
    return Artifact(
        url=_get(where, raw, "url", str),
        filename=filename,
        mount=mount,
        executable=raw.get("executable") is True,
        sha256=None if sha256 is None else str(sha256),
        ours=raw.get("ours") is True,
        stored=_text_or_none(where, raw, "stored"),
        folder=_folder(where, raw),
        missing=_text_or_none(where, raw, "missing"),
    )


def _folder(where: str, raw: Mapping[str, Any]) -> str:
    folder = _text_or_none(where, raw, "folder") or ""
    for part in folder.split("/") if folder else ():
        _check_name(where + "folder", part)
    return folder


def parse_outputs(raw: Mapping[str, Any]) -> Outputs:
    """What of it says which outputs are wanted, where they go and how long they are kept here; raises BadAssignment."""
    wanted: list[Output] = []
    for index, item in enumerate(raw.get("outputs") or []):
        where = f"outputs[{index}]."
        output = Output(_get(where, item, "kind", str), _get(where, item, "name", str))
        if output.kind not in ("file", "dir"):
            raise BadAssignment(f"{where}kind: must be file or dir")
        if output.name.startswith("/") or "\0" in output.name or ".." in output.name.split("/"):
            raise BadAssignment(f"{where}name: must be a path below the job's home")
        wanted.append(output)
    if not wanted:
        return NO_OUTPUTS
    folder: str = _get("", raw, "outputs_folder", str)
    if raw.get("outputs_on_storage") is not True:
        keep_s = raw.get("keep_s", 0)
        if not isinstance(keep_s, (int, float)) or isinstance(keep_s, bool) or keep_s < 0:
            raise BadAssignment("keep_s: must be a number of seconds")
        return Outputs(tuple(wanted), folder, _get("", raw, "output_url", str), keep_s=float(keep_s))
    if raw.get("storage") is None:
        raise BadAssignment("outputs_on_storage: the job has no storage")
    if "\0" in folder or ".." in folder.split("/"):
        raise BadAssignment("outputs_folder: must be a path below the storage's root")
    return Outputs(tuple(wanted), folder, "", on_volume=True)


def _check_name(where: str, name: str) -> None:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise BadAssignment(f"{where}: must be a plain name")


def _allowed(raw: Any) -> Allowed:
    if not isinstance(raw, dict):
        raise BadAssignment("addresses: must be an object")
    return Allowed(private=raw.get("private") is True, loopback=raw.get("loopback") is True)


def _text_or_none(where: str, raw: Mapping[str, Any], key: str) -> str | None:
    value = raw.get(key)
    if value is not None and (not isinstance(value, str) or not value or "\0" in value):
        raise BadAssignment(f"{where}{key}: must be null or a string")
    return value


def _storage(raw: Any) -> Volume | None:
    if raw is None:
        return None
    if not isinstance(raw, dict):
        raise BadAssignment("storage: must be null or an object")
    try:
        return parse_volume(raw)
    except ValueError as error:
        raise BadAssignment(str(error)) from error


def parse(text: str) -> Assignment:
    raw = json.loads(text)
    if not isinstance(raw, dict):
        raise BadAssignment("assignment: must be an object")
    limits = _get("", raw, "resources", dict)
    walltime = limits.get("walltime_s")
    if not isinstance(walltime, (int, float)) or walltime <= 0:
        raise BadAssignment("resources.walltime_s: must be positive")
    inputs: list[Input] = []
    for index, item in enumerate(raw.get("inputs") or []):
        where = f"inputs[{index}]."
        inputs.append(
            Input(_get(where, item, "filename", str), _get(where, item, "content", str), bool(item.get("executable")))
        )
    return Assignment(
        lease=_get("", raw, "lease", str),
        job=_get("", raw, "job", int),
        attempt=_get("", raw, "attempt", int),
        nodes=int(raw.get("nodes") or 1),
        token=_get("", raw, "token", str),
        job_token=_get("", raw, "job_token", str),
        report_url=_get("", raw, "report_url", str).rstrip("/"),
        resources=Resources(
            cpus=_get("resources.", limits, "cpus", int),
            memory_mb=_get("resources.", limits, "memory_mb", int),
            disk_mb=_get("resources.", limits, "disk_mb", int),
            walltime_s=float(walltime),
        ),
        owner=str(raw.get("owner") or ""),
        inputs=tuple(inputs),
        artifacts=tuple(_artifact(index, item) for index, item in enumerate(raw.get("artifacts") or [])),
        outputs=parse_outputs(raw),
        tasks=tuple(_task(index, item) for index, item in enumerate(_get("", raw, "tasks", list))),
        holds=raw.get("holds") is True,
        task_retries=int(raw.get("task_retries") or 0),
        ignore_task_failures=bool(raw.get("ignore_task_failures")),
        env=_strings("env", raw.get("env") or {}),
        allowed=_allowed(raw.get("addresses") or {}),
        storage=_storage(raw.get("storage")),
    )
