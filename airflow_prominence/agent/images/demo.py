"""A small image made of what this machine has: a static busybox, else its own shell and tools with their libraries."""

import os
import re
import shutil
import subprocess
from typing import Dict, List, Optional, Sequence

from .build import Entry, ImageConfig, layer, write_archive
from .model import PullError

DEMO_NAME = "prominence/demo:latest"
REQUIRED = (
    "sh", "echo", "cat", "sleep", "ls", "id", "env", "seq", "date", "dd", "head", "tail", "grep", "sed", "mkdir",
    "touch", "rm", "wc", "sha256sum", "pwd", "true", "false", "kill", "nohup", "setsid",
)  # fmt: skip
OPTIONAL = (
    "ps", "awk", "basename", "chmod", "cp", "cut", "df", "dirname", "du", "find", "gzip", "hostname", "ln", "md5sum",
    "mktemp", "mv", "nproc", "od", "printf", "readlink", "rmdir", "sort", "stat", "sync", "tar", "tee", "test",
    "timeout", "tr", "uname", "uniq", "whoami", "xargs", "yes",
)  # fmt: skip
# What a shell can stand in for where a machine lacks the program.
_SCRIPTS = {"nohup": b"#!/bin/sh\ntrap '' HUP\nexec \"$@\"\n", "kill": b'#!/bin/sh\nkill "$@"\n'}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LIBRARY = re.compile(r"^\s*(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$")


def find_busybox() -> Optional[str]:
    """A busybox that needs no library and has every tool the demo promises."""
    for path in (shutil.which("busybox", path=_PATH), shutil.which("busybox.static", path=_PATH)):
        if path and not libraries(path) and set(REQUIRED) <= {*_applets(path), *_SCRIPTS}:
            return path
    return None


def build_demo_image(path: str, name: str = DEMO_NAME, busybox: Optional[str] = None) -> str:
    """Write the demo image's archive to `path`; returns its id. Raises PullError naming a tool this machine lacks."""
    found = busybox or find_busybox()
    entries = base_entries() + (busybox_entries(found) if found else host_entries(REQUIRED, OPTIONAL))
    config = ImageConfig(cmd=["sh"], env={"PATH": _PATH})
    return write_archive(path, [name], config, [layer(entries)])


def base_entries() -> List[Entry]:
    """What every small image has beside its programs."""
    return [
        Entry("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n"),
        Entry("etc/group", 0o644, b"root:x:0:\n"),
        Entry("home"),
        Entry("root", 0o700),
        Entry("tmp", 0o1777),
        Entry("var/tmp", 0o1777),
    ]


def busybox_entries(busybox: str) -> List[Entry]:
    with open(busybox, "rb") as file:
        entries = [Entry("bin/busybox", 0o755, file.read())]
    names = [name for name in _applets(busybox) if name != "busybox"]
    scripts = [Entry("bin/" + name, 0o755, data) for name, data in _SCRIPTS.items() if name not in names]
    return entries + [Entry("bin/" + name, link="busybox") for name in names] + scripts


def host_entries(required: Sequence[str], optional: Sequence[str] = ()) -> List[Entry]:
    """Programs of this machine with the libraries that its loader finds for them, all at their own paths."""
    files: Dict[str, bytes] = {}
    links: Dict[str, str] = {}
    for name in [*required, *optional]:
        found = shutil.which(name, path=_PATH)
        if found is None:
            if name in _SCRIPTS:
                files["bin/" + name] = _SCRIPTS[name]
            elif name in required:
                raise PullError(f"demo image: this machine has no `{name}`; install busybox-static (Debian, Ubuntu)")
            continue
        real = os.path.realpath(found)
        program = "bin/" + os.path.basename(real)
        if program not in files:
            files[program] = _read(real)
            for library in libraries(real):
                files.setdefault(library.lstrip("/"), _read(library))
        if os.path.basename(real) != name:
            links["bin/" + name] = os.path.basename(real)
    entries = [Entry(path, 0o755, data) for path, data in files.items()]
    return entries + [Entry(path, link=target) for path, target in links.items() if path not in files]


def libraries(program: str) -> List[str]:
    """The shared libraries and the loader of a program; none if it is static or a script."""
    try:
        done = subprocess.run(
            ["ldd", program], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env={"LC_ALL": "C"}
        )
    except FileNotFoundError:
        raise PullError("demo image: this machine has no `ldd`; install busybox-static (Debian, Ubuntu)") from None
    found = [_LIBRARY.match(line) for line in done.stdout.splitlines()]
    return [match.group(1) for match in found if match]


def _applets(busybox: str) -> List[str]:
    done = subprocess.run([busybox, "--list"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return done.stdout.split()


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
