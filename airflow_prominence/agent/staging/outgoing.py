"""All that is kept of a job after it has run, in the document's order."""

from __future__ import annotations

from typing import Any, Mapping

from .. import spool
from ..assignment import Assignment
from ..node import Node
from ..paths import LeasePaths
from ..stage import JobFolders
from ..supervise import Supervisor
from ..users import User
from ..work import Call
from .outputs import NOT_STORED, Destination, Source, StageOut


class Outgoing:
    """Stores a job's outputs. Raises what the supervisor raises when the job must end."""

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

    def store(self, folders: JobFolders, roots: Mapping[str, str]) -> str | None:
        """Store what can be stored; the contract's reason why not all of it could, if it could not."""
        outputs = self._assignment.outputs
        self._reports.add("stage_out")
        source = Source(roots, folders.scratch, self._user, self._assignment.resources.disk_mb << 20)
        to = Destination(outputs.folder, outputs.url, self._assignment.job_token, self._node.ca_file)
        # what is named letter by letter has its name before what a pattern finds
        taken = {output.file: "" for output in outputs.wanted}
        first: str | None = None
        for output in outputs.wanted:
            taken_by_others = {file: path for file, path in taken.items() if path or file != output.file}
            work = StageOut(output, source, to, taken_by_others)
            answer = self._supervisor.guarded(Call(work.run, self._paths.marker))["answer"]
            for line in answer.get("lines", []):
                self._reports.add("log", {"message": line})
            for stored in answer.get("stored", []):
                taken[stored["file"]] = stored["name"]
                self._reports.add("output", stored)
            if "stored" not in answer or "failed" in answer:
                reason = self._failed(answer, output.name)
                first = first or reason
        return first

    def _failed(self, answer: Mapping[str, Any], name: str) -> str:
        sentence = answer.get("failed") or f"Output {name}: storing it broke off"
        self._reports.add("log", {"message": str(sentence)})
        return str(answer.get("reason") or NOT_STORED)
