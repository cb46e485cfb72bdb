"""All that a job is given before it runs, in the document's order: artifacts, then inputs."""

from __future__ import annotations

import os
import stat
from typing import Any, Mapping

from ..assignment import Artifact
from ..stage import JobFolders, write_inputs
from ..work import Call
from .artifacts import DOWNLOAD_FAILED, UNPACK_FAILED, Place, StageIn, StagingFailed
from .volumein import FromVolume
from .work import Staging


class Incoming(Staging):
    """Fills a job's home. Raises StagingFailed, BadInput, or what the supervisor raises when the job must end."""

    def fill(self, folders: JobFolders, volume: Mapping[str, str]) -> None:
        """`volume` maps where the job's storage is in its containers to where it is on the node."""
        left = self.assignment.resources.disk_mb << 20
        for artifact in self.assignment.artifacts:
            left -= self._stage(artifact, folders, volume, left)
        write_inputs(self.assignment.inputs, folders.home, self.user)
        for artifact in self.assignment.artifacts:
            if artifact.mount is not None:
                check_mount(folders.home, artifact.mount[0])

    def _stage(self, artifact: Artifact, folders: JobFolders, volume: Mapping[str, str], left: int) -> int:
        """How many bytes of the `left` ones of the job's disk it takes."""
        if artifact.stored is not None:
            work = FromVolume(artifact, volume, folders.home, self.user, left).run
            return self._done(artifact, self.supervisor.guarded(Call(work, self.paths.marker)))
        place = Place(
            home=folders.home,
            scratch=folders.scratch,
            user=self.user,
            owner=self.assignment.owner,
            allowed=self.assignment.allowed,
            ca_file=self.node.ca_file,
            left=left,
        )
        stage_in = StageIn(artifact, place, self.node.artifacts())
        return self._done(artifact, self.supervisor.guarded(Call(stage_in.run, self.paths.marker)))

    def _done(self, artifact: Artifact, result: Mapping[str, Any]) -> int:
        answer = result["answer"]
        if "lines" not in answer:
            why = answer.get("failed") or "Artifact {}: fetching broke off with {}".format(
                artifact.filename, result["error"] or result["code"]
            )
            raise StagingFailed(str(answer.get("reason") or DOWNLOAD_FAILED), str(why))
        for line in answer["lines"]:
            self.reports.add("log", {"message": line})
        return int(answer["size"])


def check_mount(home: str, folder: str) -> None:
    """A folder that is to be mounted must be one: a link in its place would lead the container out of the home."""
    try:
        mode = os.lstat(os.path.join(home, folder)).st_mode
    except FileNotFoundError:
        raise StagingFailed(UNPACK_FAILED, f"No artifact brought the folder {folder!r} that is to be mounted") from None
    if not stat.S_ISDIR(mode):
        raise StagingFailed(UNPACK_FAILED, f"{folder!r} is to be mounted, but it is no folder")
