"""All that a job is given before it runs, in the document's order: artifacts, then inputs."""

from __future__ import annotations

import os
import stat

from .. import spool
from ..assignment import Artifact, Assignment
from ..node import Node
from ..paths import LeasePaths
from ..stage import JobFolders, write_inputs
from ..supervise import Supervisor
from ..users import User
from ..work import Call
from .artifacts import DOWNLOAD_FAILED, UNPACK_FAILED, Place, StageIn, StagingFailed


class Incoming:
    """Fills a job's home. Raises StagingFailed, BadInput, or what the supervisor raises when the job must end."""

    def __init__(
        self,
        paths: LeasePaths,
        assignment: Assignment,
        user: User,
        node: Node,
        supervisor: Supervisor,
        reports: spool.Writer,
    ) -> None:
        self._paths = paths
        self._assignment = assignment
        self._user = user
        self._node = node
        self._supervisor = supervisor
        self._reports = reports
        self._left = assignment.resources.disk_mb << 20

    def fill(self, folders: JobFolders) -> None:
        for artifact in self._assignment.artifacts:
            self._stage(artifact, folders)
        write_inputs(self._assignment.inputs, folders.home, self._user)
        for artifact in self._assignment.artifacts:
            if artifact.mount is not None:
                check_mount(folders.home, artifact.mount[0])

    def _stage(self, artifact: Artifact, folders: JobFolders) -> None:
        place = Place(
            home=folders.home,
            scratch=folders.scratch,
            user=self._user,
            owner=self._assignment.owner,
            allowed=self._assignment.allowed,
            ca_file=self._node.ca_file,
            left=self._left,
        )
        stage_in = StageIn(artifact, place, self._node.artifacts())
        result = self._supervisor.guarded(Call(stage_in.run, self._paths.marker))
        answer = result["answer"]
        if "lines" not in answer:
            why = answer.get("failed") or "Artifact {}: fetching broke off with {}".format(
                artifact.filename, result["error"] or result["code"]
            )
            raise StagingFailed(str(answer.get("reason") or DOWNLOAD_FAILED), str(why))
        for line in answer["lines"]:
            self._reports.add("log", {"message": line})
        self._left -= int(answer["size"])


def check_mount(home: str, folder: str) -> None:
    """A folder that is to be mounted must be one: a link in its place would lead the container out of the home."""
    try:
        mode = os.lstat(os.path.join(home, folder)).st_mode
    except FileNotFoundError:
        raise StagingFailed(UNPACK_FAILED, f"No artifact brought the folder {folder!r} that is to be mounted") from None
    if not stat.S_ISDIR(mode):
        raise StagingFailed(UNPACK_FAILED, f"{folder!r} is to be mounted, but it is no folder")
