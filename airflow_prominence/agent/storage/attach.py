"""A job's volume from the runner's side: mounted before the images are pulled, parted from after the last task."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any, Callable

from ..addresses import Allowed
from ..guarded import Guarded
from ..images.tree import resolve_in_root
from ..paths import LeasePaths
from ..supervise import WALLTIME_GRACE_S, Interrupted, Supervisor
from ..users import User
from ..work import Call
from . import folders, fuse
from .model import Place, Tool, Unmountable, Volume
from .mount import Mount, log_path
from .oneclient import Oneclient
from .rclone import Rclone, reason

MOUNT_FAILED = "Unable to mount storage volume"
TRIES = 3
TRY_S = 60.0
_PAUSES_S = (1.0, 4.0)
_LOOK_S = 0.05
#: Longer than anything takes to upload that still moves (s).
_FLUSH_S = 24 * 3600.0


def tool_of(kind: str) -> Tool:
    """What mounts volumes of this kind."""
    return Oneclient() if kind == "onedata" else Rclone()


class Attachment:
    """A volume and its mount. `say` writes a line of the job's story."""

    def __init__(
        self, volume: Volume, paths: LeasePaths, user: User, supervisor: Supervisor, allowed: Allowed,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._volume = volume
        self._paths = paths
        self._supervisor = supervisor
        self._say = say
        self._tool = tool_of(volume.kind)
        self._place = Place(
            point=paths.volume, folder=paths.storage, uid=user.uid, gid=user.gid, allowed=allowed,
            everybody=fuse.everybody(),
        )  # fmt: skip
        self._mount: Guarded | None = None
        self._attached = False

    @property
    def binds(self) -> list[tuple[str, str]]:
        """(folder on the node, path in the container), for each of the job's containers."""
        return [(self._place.point, self._volume.mountpoint)]

    @property
    def roots(self) -> dict[str, str]:
        """The volume's path in the container, with where it is on the node."""
        return {self._volume.mountpoint: self._place.point}

    @property
    def point(self) -> str:
        """Where it is on the node."""
        return self._place.point

    @property
    def attached(self) -> bool:
        """Whether it is mounted, as far as is known: what ends a job may have ended its mount."""
        return self._mount is not None and not self._mount.over

    @property
    def scope(self) -> str:
        """The same for those jobs only that give the same account for the same storage; tells nothing of it."""
        said = json.dumps([self._volume.kind, dict(self._volume.account)], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()

    def host_path(self, path: str) -> str | None:
        """Where a container's absolute path is on the node; None if that is not on the volume.

        Links are followed as the container would, so none leads out of the volume. It asks the server, which may not
        answer: call it in guarded work only.
        """
        mountpoint = self._volume.mountpoint
        if path != mountpoint and not path.startswith(mountpoint + "/"):
            return None
        return resolve_in_root(self._place.point, path[len(mountpoint) :])

    def attach(self) -> None:
        """Mount the volume; raises Unmountable when all tries have failed."""
        began = time.monotonic()
        fuse.check()
        for number in range(TRIES):
            try:
                self._try()
                break
            except Unmountable as error:
                self._detach_now()
                if error.final or number == TRIES - 1:
                    raise
                self._say(f"Storage {self._volume.kind}: try {number + 1} of {TRIES} failed: {error}")
                self._supervisor.until(lambda: False, patience_s=_PAUSES_S[number])
        self._attached = True
        seconds = time.monotonic() - began
        self._say(f"Storage {self._volume.kind} mounted at {self._volume.mountpoint} in {seconds:.1f} s")

    def detach(self) -> list[str]:
        """Unmount the volume once the server has everything; the files that it could not be given."""
        if self._mount is None:
            return []
        mount, self._mount = self._mount, None
        self._supervisor.end([mount], _FLUSH_S)
        return self._tool.unsaved(self._place)

    def _try(self) -> None:
        end = time.monotonic() + TRY_S
        folders.make(self._paths, self._place.gid)
        self._ask(end)
        mount = Mount(self._tool, self._volume, self._place, self._paths.marker)
        self._mount = guarded = self._supervisor.start(mount, on_end=self._lost)
        mounted = self._supervisor.until(
            lambda: guarded.over or bool(fuse.points(self._place.point)),
            patience_s=end - time.monotonic(),
            poll_s=_LOOK_S,
        )
        if guarded.over:
            raise Unmountable(self._why(guarded))
        if not mounted:
            raise Unmountable(f"{self._tool.name} did not mount it within {TRY_S:.0f} s")

    def _ask(self, end: float) -> None:
        """Ask the server first: a mount of what refuses us looks like any other."""

        def look() -> dict[str, Any]:
            try:
                self._tool.check(self._volume, self._place, max(1.0, end - time.monotonic()))
            except Unmountable as error:
                return {"failed": str(error), "final": error.final}
            return {}

        answer = self._supervisor.guarded(Call(look, self._paths.marker))["answer"]
        if "failed" in answer:
            raise Unmountable(str(answer["failed"]), final=bool(answer["final"]))

    def _lost(self, guarded: Guarded) -> None:
        """The tool has ended by itself: what the tasks see is no volume any more."""
        if self._attached:
            self._say(f"Storage {self._volume.kind} is lost: {self._why(guarded)}")
            self._supervisor.interrupt(Interrupted("failed", MOUNT_FAILED, WALLTIME_GRACE_S))

    def _why(self, guarded: Guarded) -> str:
        result = guarded.result or {}
        if result.get("error"):
            return str(result["error"])
        try:
            with open(log_path(self._place), "rb") as file:
                said = reason(file.read(), self._volume)
        except FileNotFoundError:
            said = ""
        return said or f"{self._tool.name} ended with exit code {result.get('code')}"

    def _detach_now(self) -> None:
        if self._mount is not None:
            mount, self._mount = self._mount, None
            self._supervisor.end([mount], 0.0)
