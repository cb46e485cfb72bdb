"""Tasks: what a schema cannot say about images, commands and environments."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any
from urllib.parse import urlsplit

from airflow_prominence.documents.errors import DocumentError, path_of, quoted
from airflow_prominence.documents.files import check_inside, check_url
from airflow_prominence.documents.model import MPI_TYPES, Credential, Resources, Task

Path = tuple[str | int, ...]

# Linux refuses to exec with one argument or variable longer than this (MAX_ARG_STRLEN), ending NUL included
MAX_WORD_BYTES = 128 * 1024 - 1
# ... and with more than a quarter of the stack limit in all; the runtime needs a part of it
MAX_EXEC_BYTES = 1_000_000

PARAMETER_PREFIX = "PROMINENCE_PARAMETER_"

_SPACE_OR_CONTROL = re.compile(r"[\s\x00-\x20\x7f-\x9f]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SIF = (".sif", ".simg")
_TARBALL = (".tar", ".tgz")


def task_of(doc: dict[str, Any], path: Path, resources: Resources) -> Task:
    """Build one task from its part of a document that has passed the schema."""
    image: str = doc["image"]
    _check_image(image, (*path, "image"))
    kind: str = doc.get("type", "basic")
    runtime: str = doc.get("runtime") or default_runtime(image)
    if runtime == "udocker" and _needs_singularity(image):
        raise DocumentError(path_of((*path, "runtime")), "udocker cannot run a Singularity image")
    if runtime == "udocker" and "app" in doc:
        raise DocumentError(path_of((*path, "app")), "cannot be given when runtime is udocker")
    env = {name: env_text(value) for name, value in doc.get("env", {}).items()}
    _check_env(env, (*path, "env"))
    cmd: str | None = doc.get("cmd")
    _check_cmd(cmd, kind, env, path)
    procs: int | None = _whole(doc.get("procsPerNode"))
    if procs is not None and procs > resources.max_cpus:
        sentence = f"must be at most the number of CPUs per node, {resources.max_cpus}"
        raise DocumentError(path_of((*path, "procsPerNode")), sentence)
    if "workdir" in doc:
        check_inside(doc["workdir"], (*path, "workdir"), absolute=True)
    if "stdout" in doc:
        check_inside(doc["stdout"], (*path, "stdout"))
    credential = doc.get("imagePullCredential")
    return Task(
        image=image,
        runtime=runtime,
        cmd=cmd,
        env=env,
        workdir=doc.get("workdir"),
        type=kind,
        procs_per_node=procs,
        credential=Credential(credential["username"], credential["token"]) if isinstance(credential, dict) else None,
        connection=credential if isinstance(credential, str) else None,
        image_sha256=doc["imageSha256"].lower() if "imageSha256" in doc else None,
        app=doc.get("app"),
        stdout=doc.get("stdout"),
    )


def default_runtime(image: str) -> str:
    """The runtime of a task that names none: the only one that can run such an image, else singularity."""
    return "udocker" if _file_name(image).endswith(_TARBALL) else "singularity"


def env_text(value: str | float | bool) -> str:
    """Text of an environment variable: strings as they are, numbers and booleans as JSON writes them."""
    return value if isinstance(value, str) else json.dumps(value)


def split_cmd(cmd: str, path: Path) -> list[str]:
    """Words of a command as a POSIX shell would split them, nothing else of a shell's language meaning anything."""
    try:
        words = shlex.split(cmd)
    except ValueError as error:
        # shlex says "No closing quotation" or "No escaped character"
        raise DocumentError(path_of(path), f"cannot be split into words: {str(error).lower()}") from None
    if not words or not words[0]:
        raise DocumentError(path_of(path), "must name a command")
    return words


def _check_cmd(cmd: str | None, kind: str, env: dict[str, str], path: Path) -> None:
    where = (*path, "cmd")
    if cmd is None:
        if kind in MPI_TYPES:
            raise DocumentError(path_of(where), f"is missing: a task of type {kind} needs a command")
        words = []
    else:
        words = split_cmd(cmd, where)
        if kind in MPI_TYPES and words[0] == "mpirun":
            raise DocumentError(path_of(where), "must not start with mpirun, which is added for you")
    variables = [f"{name}={value}" for name, value in env.items()]
    sizes = [len(text.encode()) + 1 for text in (*words, *variables)]
    if any(size > MAX_WORD_BYTES for size in sizes[: len(words)]):
        raise DocumentError(path_of(where), f"has a word longer than {MAX_WORD_BYTES - 1} bytes")
    if any(size > MAX_WORD_BYTES for size in sizes[len(words) :]):
        raise DocumentError(path_of((*path, "env")), f"has a variable longer than {MAX_WORD_BYTES - 1} bytes")
    if sum(sizes) > MAX_EXEC_BYTES:
        raise DocumentError(path_of(path), f"cmd and env are together larger than {MAX_EXEC_BYTES} bytes")


def _check_env(env: dict[str, str], path: Path) -> None:
    for name in env:
        # A parameter's variable is a job's own: whoever clones one that has them sends them along
        if name.startswith("PROMINENCE_") and not name.startswith(PARAMETER_PREFIX):
            raise DocumentError(path_of((*path, name)), "cannot be set: names starting with PROMINENCE_ are reserved")


def _check_image(image: str, path: Path) -> None:
    if _SPACE_OR_CONTROL.search(image):
        raise DocumentError(path_of(path), "must not contain white space or control characters")
    if image.startswith("-"):
        raise DocumentError(path_of(path), "must not start with -")
    scheme = _SCHEME.match(image)
    if scheme is None:
        if ".." in image.split("/"):
            raise DocumentError(path_of(path), "must not contain .. as a part of the path")
    elif scheme[1].lower() in {"http", "https"}:
        check_url(image, path)
        if "@" in image.split("/")[2]:
            raise DocumentError(path_of(path), "must not hold a user name or password: use imagePullCredential")
    elif scheme[1] != "shub":
        sentence = f"cannot start with {quoted(scheme[0])}: only http, https and shub URLs and plain names are known"
        raise DocumentError(path_of(path), sentence)


def _needs_singularity(image: str) -> bool:
    return image.startswith("shub://") or _file_name(image).endswith(_SIF)


def _file_name(image: str) -> str:
    try:
        return urlsplit(image).path if _SCHEME.match(image) else image
    except ValueError:
        return image


def _whole(number: float | None) -> int | None:
    # JSON Schema takes 2.0 for an integer
    return None if number is None else int(number)
