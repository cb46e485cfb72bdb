"""All that is kept of a job after it has run, in the document's order."""

from __future__ import annotations

from typing import Any, Mapping

from ..stage import JobFolders
from ..work import Call
from .keeping import NOT_STORED, Destination
from .outputs import Source, StageOut
from .uploads import ObjectStore
from .volumeout import VolumeFolder
from .work import Staging


class Outgoing(Staging):
    """Stores a job's outputs. Raises what the supervisor raises when the job must end."""

    def store(self, folders: JobFolders, roots: Mapping[str, str], volume: str | None) -> str | None:
        """Store what can be stored; the contract's reason why not all of it could, if it could not.

        `volume` is where the job's storage is mounted, for outputs that go there.
        """
        outputs = self.assignment.outputs
        self.reports.add("stage_out")
        source = Source(roots, folders.scratch, self.user, self.assignment.resources.disk_mb << 20)
        to: Destination = ObjectStore(outputs.folder, outputs.url, self.assignment.job_token, self.node.ca_file)
        if outputs.on_volume and volume is not None:
            to = VolumeFolder(volume, outputs.folder)
        # what is named letter by letter has its name before what a pattern finds
        taken = {output.file: "" for output in outputs.wanted}
        first: str | None = None
        for output in outputs.wanted:
            taken_by_others = {file: path for file, path in taken.items() if path or file != output.file}
            work = StageOut(output, source, to, taken_by_others)
            answer = self.supervisor.guarded(Call(work.run, self.paths.marker))["answer"]
            for line in answer.get("lines", []):
                self.reports.add("log", {"message": line})
            for stored in answer.get("stored", []):
                taken[stored["file"]] = stored["name"]
                self.reports.add("output", stored)
            if "stored" not in answer or "failed" in answer:
                reason = self._failed(answer, output.name)
                first = first or reason
        return first

    def _failed(self, answer: Mapping[str, Any], name: str) -> str:
        sentence = answer.get("failed") or f"Output {name}: storing it broke off"
        self.reports.add("log", {"message": str(sentence)})
        return str(answer.get("reason") or NOT_STORED)
