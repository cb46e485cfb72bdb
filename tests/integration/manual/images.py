"""The images that the manual's examples name, made here of this machine's own programs."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

from airflow_prominence.agent.images.build import Entry, ImageConfig, layer, write_archive
from airflow_prominence.agent.images.demo import base_entries, host_entries, libraries
from tests.runtimes.sifwriter import sif, squashfs

_PATH = "/usr/local/bin:/usr/bin:/bin"
_PROGRAMS = ("bash", "sh", "cat", "date", "du", "echo", "env", "ls", "mkdir", "pwd", "sleep", "touch", "true")
_PYTHON = "opt/python"

PYTHON = "python:3"

# Three ways to calculate pi, and how far each of twenty iterations of each comes.
_TESTPI = b"""\
from decimal import Decimal as D, getcontext
getcontext().prec = 25
print("%20s %38s %29s" % ("Plouff", "Bellard", "Chudnovsky"))
plouff = bellard = total = D(0)
k, m, l, x = 6, D(1), D(13591409), D(1)
for n in range(20):
    plouff += (D(4) / (8 * n + 1) - D(2) / (8 * n + 4) - D(1) / (8 * n + 5) - D(1) / (8 * n + 6)) / D(16) ** n
    bellard += D(-1) ** n / D(1024) ** n * (
        D(-32) / (4 * n + 1) - D(1) / (4 * n + 3) + D(256) / (10 * n + 1) - D(64) / (10 * n + 3)
        - D(4) / (10 * n + 5) - D(4) / (10 * n + 7) + D(1) / (10 * n + 9)) / 64
    total += m * l / x
    print("Iteration number %d %s %s %s" % (n, plouff, bellard, D(426880) * D(10005).sqrt() / total))
    m = m * (k ** 3 - 16 * k) / D(n + 1) ** 3
    k, l, x = k + 12, l + 545140134, x * -262537412640768000
"""


def make_images(folder: Path) -> None:
    """Write the archives into a node's folder of images."""
    programs = base_entries() + host_entries(_PROGRAMS)
    for release in ("7.9.2009", "8.5.2111"):
        named = [*programs, Entry("etc/redhat-release", 0o644, f"CentOS Linux release {release}\n".encode())]
        _write(folder, f"centos:{release[0]}", named)
    _write(folder, "busybox:latest", programs)
    words = ("sh", "-c", "echo LOWER=$LOWER UPPER=$UPPER")
    _write(folder, "test/container:latest", programs, entrypoint=words)
    python = programs + _python()
    _write(folder, PYTHON, python)
    pi = [*python, Entry("testpi.py", 0o644, _TESTPI)]
    _write(folder, "eoscprominence/testpi:latest", pi, entrypoint=("python3", "/testpi.py"))


def make_python_image(folder: Path) -> str:
    """Write an archive with a Python and a few programs into a node's folder of images; its name."""
    _write(folder, PYTHON, base_entries() + host_entries(_PROGRAMS) + _python())
    return PYTHON


def make_singularity_image() -> bytes:
    """A Singularity image of the same programs."""
    return sif(squashfs(base_entries() + host_entries(_PROGRAMS)))


def make_private_layer() -> bytes:
    """The layer of an image that a registry keeps for one user."""
    return layer(base_entries() + host_entries(_PROGRAMS))


def _write(folder: Path, name: str, entries: list[Entry], entrypoint: tuple[str, ...] = ()) -> None:
    config = ImageConfig(entrypoint=entrypoint, cmd=() if entrypoint else ("sh",), env=_environment())
    path = folder / (name.replace("/", "-").replace(":", "-") + ".tar")
    half = path.with_suffix(".new")
    write_archive(str(half), [name], config, [layer(entries)])
    half.chmod(0o644)
    half.replace(path)


def _environment() -> dict[str, str]:
    return {
        "PATH": _PATH,
        "PYTHONHOME": f"/{_PYTHON}",
        "LD_LIBRARY_PATH": f"/{_PYTHON}/lib",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _python() -> list[Entry]:
    """A real Python: the one that runs the tests, and what of its library a small script needs."""
    library = Path(sysconfig.get_path("stdlib"))
    program = os.path.realpath(sys.executable)
    files = {"bin/python3": program}
    needed = [program, *map(str, library.glob("lib-dynload/*.so"))]
    for path in dict.fromkeys(found for name in needed for found in libraries(name)):
        system = path.startswith(("/lib", "/usr/lib"))
        files[path.lstrip("/") if system else f"{_PYTHON}/lib/{Path(path).name}"] = path
    found = [Entry(path, 0o755, Path(source).read_bytes()) for path, source in files.items()]
    inside = f"{_PYTHON}/lib/python{sysconfig.get_python_version()}"
    packages = {"collections", "email", "encodings", "http", "importlib", "json", "re", "urllib"}
    for path in [*library.rglob("*.py"), *library.glob("lib-dynload/*.so")]:
        below = path.relative_to(library)
        if len(below.parts) == 1 or below.parts[0] in packages or path.suffix == ".so":
            found.append(Entry(f"{inside}/{below}", 0o755, path.read_bytes()))
    return found


def config_of_private() -> ImageConfig:
    """Its configuration: it says what it is."""
    return ImageConfig(entrypoint=("echo", "private"), env={"PATH": _PATH})
