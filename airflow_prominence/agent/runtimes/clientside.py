"""What podman and docker have in common: a client that takes options, and obeys some variables itself."""

import os
from typing import Dict, List, Tuple

from .base import HOME, ContainerSpec
from .files import job_file

# The client obeys these itself, so a job's values for them reach the container through a file instead.
_RESERVED = ("PATH", "HOME", "TMPDIR", "USER", "LANG", "LC_ALL", "container")
_STARTS = ("CONTAINER", "PODMAN", "DOCKER", "STORAGE", "XDG_", "LD_", "GO", "DBUS_", "REGISTRY_", "NOTIFY_", "LISTEN_")


def client_environment(spec: ContainerSpec, clean: Dict[str, str]) -> Tuple[List[str], Dict[str, str]]:
    """Options that name the job's variables, and the client's environment with their values.

    Values are not for a command line, which all users of the host can see.
    """
    options: List[str] = []
    environment = dict(clean)
    reserved = {}
    for key, value in spec.environment().items():
        if key in _RESERVED or key.startswith((*_STARTS, "_")) or key.lower().endswith("_proxy"):
            reserved[key] = value
        else:
            environment[key] = value
            options.append("--env=" + key)
    lines = "".join(f"{key}={value}\n" for key, value in reserved.items() if "\n" not in value)
    options.append("--env-file=" + job_file(spec, "env", os.fsencode(lines)))
    # A line break cannot be in that file; none of these names is one for a secret.
    options += [f"--env={key}={value}" for key, value in reserved.items() if "\n" in value]
    return options, environment


def exec_options(spec: ContainerSpec, more: Dict[str, str]) -> List[str]:
    """Of `exec`: the container's own environment is there already."""
    named = [f"--env={key}={value}" for key, value in more.items()]
    return ["exec", f"--user={spec.uid}:{spec.gid}", "--workdir=" + HOME, *named]


def mount_option(host: str, path: str, mode: str) -> str:
    """`--mount` takes one line of CSV."""
    fields = ["type=bind", "src=" + host, "dst=" + path] + (["readonly"] if mode == "ro" else [])
    quoted = ['"{}"'.format(field.replace('"', '""')) if '"' in field or "," in field else field for field in fields]
    return "--mount=" + ",".join(quoted)
