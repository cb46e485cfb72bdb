"""All outputs of a job, in the document's order."""

from __future__ import annotations

from typing import Any, Callable, Mapping

from ..assignment import Output
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

        def guarded(work: StageOut) -> Mapping[str, Any]:
            answer: Mapping[str, Any] = self.supervisor.guarded(Call(work.run, self.paths.marker))["answer"]
            return answer

        return store_each(outputs.wanted, source, to, guarded, self.reports.add)


def store_each(
    wanted: tuple[Output, ...],
    source: Source,
    to: Destination,
    guarded: Callable[[StageOut], Mapping[str, Any]],
    tell: Callable[[str, dict[str, Any]], None],
) -> str | None:
    """Store what can be stored; the contract's reason why not all of it could, if it could not.

    `guarded` runs each one and returns its answer; `tell` hears of each output, and each line of the story.
    """
    # what is named letter by letter has its name before what a pattern finds
    taken = {output.file: "" for output in wanted}
    first: str | None = None
    for output in wanted:
        taken_by_others = {file: path for file, path in taken.items() if path or file != output.file}
        answer = guarded(StageOut(output, source, to, taken_by_others))
        for line in answer.get("lines", []):
            tell("log", {"message": line})
        for stored in answer.get("stored", []):
            taken[stored["file"]] = stored["name"]
            tell("output", stored)
        if "stored" not in answer or "failed" in answer:
            tell("log", {"message": str(answer.get("failed") or f"Output {output.name}: storing it broke off")})
            first = first or str(answer.get("reason") or NOT_STORED)
    return first
