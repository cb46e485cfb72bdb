"""What a runtime is to the runner: pull, prepare, launch; kill, usage and cleanup where children do not suffice.

The order in a job is `pull`, then for each try `prepare`, `launch` (its argv is executed by the guard), `usage`,
`oom_killed`, `cleanup`. `kill` may come at any moment and from another thread; `inside` comes from another process,
while it runs.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Callable, Dict, List, Optional, Tuple

from ..images.cache import ImageCache
from ..images.model import Image, PullError, Wanted
from . import runscript

__all__ = [
    "HOME",
    "TMP",
    "ContainerError",
    "ContainerSpec",
    "Image",
    "ImageCache",
    "Launch",
    "PullError",
    "Runtime",
    "RuntimeUnavailable",
    "Usage",
    "Wanted",
]

HOME = "/home/user"
TMP = "/tmp"
_FOLDERS = {"HOME": HOME, "TMP": TMP, "TEMP": TMP, "TMPDIR": TMP}
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class RuntimeUnavailable(Exception):
    """This machine cannot use the runtime; the message is one sentence that says how to get it."""


class ContainerError(Exception):
    """A container that cannot be prepared; the message is one sentence for the job's story."""


@dataclass(frozen=True)
class ContainerSpec:
    name: str
    image: Image
    argv: Optional[List[str]]
    env: Dict[str, str]
    workdir: str
    home: str
    tmp: str
    binds: List[Tuple[str, str]]
    uid: int
    gid: int
    memory_mb: int
    cpus: int
    writable: bool
    scratch: str
    app: Optional[str] = None

    def command(self, carried: str = "") -> List[str]:
        """The argv to run: the task's own, which replaces ENTRYPOINT too, else the image's ENTRYPOINT and CMD.

        A Singularity image, or one of whose apps is asked for, is started by its own scripts; for those a runtime may
        have the environment `carried` (`runscript.command`).
        """
        if self.has_scripts:
            return runscript.command(self.argv, self.app, self.environment(), {*self.env, *_FOLDERS}, carried)
        if self.argv is not None:
            return list(self.argv)
        return self.image.entrypoint + self.image.cmd

    @property
    def has_scripts(self) -> bool:
        return self.image.is_singularity or self.app is not None

    @property
    def script(self) -> Optional[str]:
        """The script of the image that is to be started instead of a command, if one is."""
        return runscript.script_of(self.argv, self.app) if self.has_scripts else None

    def environment(self) -> Dict[str, str]:
        """The whole environment of the container's first process; nothing of the host's is in it."""
        env = {"PATH": DEFAULT_PATH}
        env.update(self.image.env)
        env.update(_FOLDERS)
        env.update(runscript.app_environment(self.app))
        env.update(self.env)
        return env

    def beside(self, argv: List[str], more: Dict[str, str]) -> "ContainerSpec":
        """For a command beside the task: from the home folder, with the task's variables and `more`."""
        env = {**runscript.app_environment(self.app), **self.env, **more}
        return replace(self, argv=argv, app=None, env=env, workdir=HOME)


@dataclass(frozen=True)
class Launch:
    """What the guard executes; `env` is the whole environment, and `run_as` is set before exec if not None.

    A guard that sets `run_as` also drops all supplementary groups. With `enters`, a process of a running container, the
    command is run in that one's namespaces, from the job's home folder.
    """

    argv: List[str]
    env: Dict[str, str]
    run_as: Optional[Tuple[int, int]]
    enters: Optional[int] = None


@dataclass(frozen=True)
class Usage:
    """What a container has used: CPU seconds, its most memory, and its memory now (KB)."""

    cpu_s: float
    max_rss_kb: int
    rss_kb: int = 0


class Runtime(ABC):
    """One container command. Objects are cheap, hold no state of a job, and may be used by several threads."""

    name: str
    # Whether its containers are walls at all; the self-test looks for itself besides.
    isolates = True
    # Whether its containers leave the group of processes in which they are started, so that its limits don't hold them.
    regroups = False

    def __init__(self, engine_dir: str) -> None:
        self.engine_dir = engine_dir

    @abstractmethod
    def probe(self) -> str:
        """The version; raises RuntimeUnavailable with a sentence on how to get it."""

    def binaries(self) -> List[str]:
        """The programs that it starts; when one changes, what was known of the runtime counts no more."""
        return []

    def pull(self, wanted: Wanted, cache: ImageCache, log: Callable[[str], None]) -> Tuple[Image, str]:
        """The image and `completed` or `cached`; raises PullError."""
        return cache.get(wanted, log)

    @abstractmethod
    def prepare(self, spec: ContainerSpec) -> None:
        """Whatever the container needs on disk; raises ContainerError."""

    @abstractmethod
    def launch(self, spec: ContainerSpec) -> Launch:
        """The command for the guard; `prepare` has been called for this spec."""

    @abstractmethod
    def inside(self, spec: ContainerSpec, argv: List[str], more: Dict[str, str], guard: int) -> Optional[Launch]:
        """The command that runs `argv` in the running container of this spec, `more` added to its environment.

        `guard` is the process below which the container was started. None while the container is not up (yet).
        """

    def kill(self, name: str) -> None:  # noqa: B027 - nothing to do where all processes are the guard's descendants
        """End a container whose processes are not descendants of the guard."""

    def usage(self, name: str) -> Optional[Usage]:  # noqa: ARG002 - for those that override it
        """What the container has used so far where the guard's children do not show it; call it while it runs."""
        return None

    def oom_killed(self, spec: ContainerSpec) -> bool:  # noqa: ARG002 - for those that override it
        """Whether the kernel killed a process of an ended container for want of memory, where it `regroups`."""
        return False

    def cleanup(self, spec: ContainerSpec) -> None:  # noqa: B027 - the scratch folder goes with the job
        """Forget the container of this spec (not the job's root, which other tasks of the job share)."""
