"""One attempt of one job, step by step: stage in, pull, tasks. What comes out is an Outcome, never an exception."""

from __future__ import annotations

import json
import os
import posixpath
import time
from dataclasses import dataclass, field
from typing import Any, Mapping

from . import current, facts, spool, stage
from .assignment import Assignment, Task
from .cgroup import Cgroup
from .images.model import Image, Stored
from .images.sources import Sources
from .kept import Leavings
from .limits import DiskWatch
from .node import Node
from .paths import LeasePaths
from .pulling import Images
from .runtimes.base import HOME, TMP, ContainerSpec, RuntimeUnavailable
from .sidecars import Sidecars
from .staging.artifacts import DOWNLOAD_FAILED, StagingFailed
from .staging.incoming import Incoming, check_mount
from .staging.keeping import NOT_STORED
from .staging.outgoing import Outgoing
from .staging.tree import FOLDER, Tree, Unsafe, parts_of
from .storage.attach import MOUNT_FAILED, Attachment
from .storage.model import Unmountable
from .supervise import WALLTIME_GRACE_S, GuardFailed, Interrupted, Supervisor
from .users import User
from .work import Call, Container

PULL_FAILED = "Container image pull failed"
EXEC_FAILED = "Unable to execute task(s)"
#: The contract has no reason for this, and a job whose results are lost must not count as done.
SAVE_FAILED = "Unable to write to storage volume"


#: Before which a job may hold, in the order in which it comes to them.
_BORDERS = ("staging_in", "running", "staging_out")


class JobFailed(Exception):
    """The job cannot go on; the reason is one of the contract's, the message a line of its story."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Outcome:
    status: str
    reason: str
    node_success: bool
    stale: bool = False


@dataclass
class TaskState:
    """What is known of one task so far."""

    image: Image | None = None
    pull: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)

    def execution(self) -> dict[str, Any]:
        return dict(self.pull, **self.usage)


class Job:
    def __init__(
        self,
        paths: LeasePaths,
        assignment: Assignment,
        user: User,
        group: Cgroup,
        node: Node,
        supervisor: Supervisor,
        reports: spool.Writer,
    ) -> None:
        self._paths = paths
        self._assignment = assignment
        self._user = user
        self._group = group
        self._node = node
        self._supervisor = supervisor
        self._reports = reports
        self._tasks = [TaskState() for _ in assignment.tasks]
        sources = Sources(node.insecure, node.ca_file, assignment.allowed)
        self._images = Images(
            node, sources, lambda work: supervisor.guarded(Call(work, paths.marker)), self._in_storage
        )
        self._folders: stage.JobFolders | None = None
        self._stage_in_s = self._stage_out_s = 0.0
        self._leavings: Leavings | None = None
        self._storage: Attachment | None = None
        if assignment.storage is not None:
            self._storage = Attachment(
                assignment.storage,
                paths,
                user,
                supervisor,
                assignment.allowed,
                lambda line: reports.add("log", {"message": line}),
            )
        self._sidecars = Sidecars(supervisor, reports, lambda index, result: self._used(index, 0, result))

    def run(self) -> Outcome:
        """The whole of it; nothing guarded is left afterwards."""
        outcome = self._outcome()
        self._supervisor.end_all(WALLTIME_GRACE_S)
        self._sidecars.account()
        return outcome

    def _outcome(self) -> Outcome:
        try:
            try:
                self._hold("staging_in")
                self._make_folders()
                self._attach()
                self._stage_in()
                for index, task in enumerate(self._assignment.tasks):
                    self._pull(index, task)
            except JobFailed as failure:
                return self._parted(self._failed(failure))
            return self._parted(self._stored(self._ran()))
        except GuardFailed as failure:
            self._reports.add("log", {"message": str(failure)})
            return Outcome("failed", EXEC_FAILED, False)
        except Interrupted as interruption:
            return _ended_by(interruption)

    def _ran(self) -> Outcome:
        """How the tasks went; nothing of them is left. Raises when nothing may follow them."""
        try:
            return Outcome("completed", "", self._run_tasks())
        except JobFailed as failure:
            self._sidecars.end()
            return self._failed(failure)
        except Interrupted as interruption:
            if not interruption.limit:
                raise
            self._supervisor.go_on_after(interruption)
            self._sidecars.end()
            return _ended_by(interruption)

    def _failed(self, failure: JobFailed) -> Outcome:
        self._reports.add("log", {"message": failure.message})
        return Outcome("failed", failure.reason, False)

    def _stored(self, ran: Outcome) -> Outcome:
        """The same when the outputs are stored; what is missing counts against a job that has come to its end."""
        try:
            if ran.status == "completed":
                tasks = [state.execution() for state in self._tasks if state.pull]
                self._hold("staging_out", {"tasks_success": ran.node_success, "tasks": tasks})
            reason = self._stage_out()
        except JobFailed as failure:
            reason = self._failed(failure).reason
        except GuardFailed as failure:
            self._reports.add("log", {"message": f"Storing outputs: {failure}"})
            reason = NOT_STORED
        except Interrupted as interruption:
            if ran.status != "completed" and not (interruption.asked or interruption.stale):
                return ran
            return _ended_by(interruption)
        return Outcome("failed", reason, False) if reason and ran.status == "completed" else ran

    def _hold(self, phase: str, data: Mapping[str, Any] | None = None) -> None:
        """Wait before a phase until the API lets the job go on, if this is a job that holds."""
        if self._assignment.holds:
            self._reports.add("held", dict(data or {}, phase=phase))
            self._supervisor.until(lambda: _reaches(self._supervisor.allowed, phase))

    # -- storage

    def _attach(self) -> None:
        if self._storage is not None:
            began = time.monotonic()
            self._mount(self._storage)
            self._stage_in_s += time.monotonic() - began

    def _mount(self, storage: Attachment) -> None:
        try:
            storage.attach()
        except Unmountable as error:
            raise JobFailed(MOUNT_FAILED, f"Storage could not be mounted: {error}") from error
        except OSError as error:
            raise JobFailed(MOUNT_FAILED, f"Storage could not be mounted: {error.strerror}") from error

    def _in_storage(self, path: str) -> Stored | None:
        found = None if self._storage is None else self._storage.host_path(path)
        if self._storage is None or found is None:
            return None
        return Stored(found, (self._user.uid, self._user.gid) if self._user.own else None, self._storage.scope)

    def _parted(self, outcome: Outcome) -> Outcome:
        """The same when the storage has all that was written to it; that of a job that was killed is gone already."""
        storage, killed = self._storage, outcome.status == "killed"
        left = [] if storage is None or (killed and not storage.attached) else storage.detach()
        if not left:
            return outcome
        names = ", ".join(left[:5]) + (" and more" if len(left) > 5 else "")
        lost = self._failed(
            JobFailed(SAVE_FAILED, f"Storage: {len(left)} files could not be stored on the server: {names}")
        )
        return outcome if killed else lost

    # -- stage in and pull

    def _make_folders(self) -> None:
        self._reports.add("stage_in")
        try:
            self._folders = stage.make(self._paths.job, self._user)
        except OSError as error:
            raise JobFailed(EXEC_FAILED, f"the job's folder can't be made: {error}") from error

    def _stage_in(self) -> None:
        if self._folders is None:
            return
        began = time.monotonic()
        incoming = Incoming(self._paths, self._assignment, self._user, self._node, self._supervisor, self._reports)
        try:
            incoming.fill(self._folders, {} if self._storage is None else self._storage.roots)
        except StagingFailed as error:
            raise JobFailed(error.reason, str(error)) from error
        except stage.BadInput as error:
            raise JobFailed(DOWNLOAD_FAILED, str(error)) from error
        except OSError as error:
            raise JobFailed(EXEC_FAILED, f"the job's folder can't be filled: {error}") from error
        streams = [spool.stream_path(self._paths.spool, name) for name in spool.STREAMS]
        disk = self._assignment.resources.disk_mb
        uid = self._user.uid if self._user.own else None
        self._supervisor.disk = DiskWatch([self._paths.job, self._paths.storage], streams, disk, uid)
        if self._assignment.inputs or self._assignment.artifacts:
            self._stage_in_s += time.monotonic() - began

    def _pull(self, index: int, task: Task) -> None:
        command = self._node.runtimes.get(task.runtime)
        if command is None:
            raise JobFailed(EXEC_FAILED, f"runtime {task.runtime!r} is not available on this node")
        pulled = self._images.pull(task, command)
        for line in pulled.lines:
            self._reports.add("log", {"message": line})
        state = self._tasks[index]
        state.image, state.pull = pulled.image, pulled.execution()
        self._reports.add("pulled", pulled.report(index))
        if pulled.image is None:
            raise JobFailed(PULL_FAILED, pulled.why)

    def give_up_images(self) -> None:
        """Say that this job's images may be evicted."""
        self._images.close()

    # -- stage out

    def _stage_out(self) -> str | None:
        """The contract's reason why not all of the outputs could be stored, if so."""
        if not self._assignment.outputs.wanted or self._folders is None:
            return None
        began = time.monotonic()
        if self._assignment.outputs.on_volume and self._storage is not None and not self._storage.attached:
            # what ended the tasks has ended the mount with them
            self._mount(self._storage)
        outgoing = Outgoing(self._paths, self._assignment, self._user, self._node, self._supervisor, self._reports)
        roots, keep_s = self._roots(self._folders), self._assignment.outputs.keep_s
        if keep_s > 0:
            self._leavings = Leavings(roots, self._assignment.resources.disk_mb, keep_s)
        volume = None if self._storage is None else self._storage.point
        reason = outgoing.store(self._folders, roots, volume)
        self._stage_out_s = time.monotonic() - began
        return reason

    def leavings(self) -> Leavings | None:
        """What outputs can be stored from once more when the job has ended; None if that is not wanted."""
        return self._leavings

    def _roots(self, folders: stage.JobFolders) -> dict[str, str]:
        """The container's paths that are the job's own folders, with the node's."""
        return {path: host for host, path in [(folders.home, HOME), (folders.tmp, TMP), *self._mounted(folders.home)]}

    # -- tasks

    def _run_tasks(self) -> bool:
        self._supervisor.check()
        self._hold("running")
        self._reports.add("running")
        deadline = time.monotonic() + self._assignment.resources.walltime_s
        tasks = list(enumerate(self._assignment.tasks))
        for index, task in tasks:
            if task.is_sidecar:
                error = self._sidecars.start(index, self._container(index, task, 0), deadline)
                if error is not None:
                    raise JobFailed(EXEC_FAILED, f"sidecar task {index}: {error}")
        success = True
        for index, task in tasks:
            if not task.is_sidecar and self._run_task(index, task, deadline) != 0:
                success = False
                if not self._assignment.ignore_task_failures:
                    break
        self._sidecars.end(deadline)
        return success

    def _run_task(self, index: int, task: Task, deadline: float) -> int:
        state = self._tasks[index]
        code, retries = 0, 0
        for attempt in range(self._assignment.task_retries + 1):
            retries = attempt
            code = self._try(index, task, attempt, deadline)
            if code == 0 or time.monotonic() >= deadline:
                break
        usage = state.usage
        self._reports.add(
            "task",
            {
                "task": index,
                "exit_code": code,
                "wall": usage["wallTimeUsage"],
                "cpu": usage["cpuTimeUsage"],
                "max_rss_kb": usage["maxResidentSetSizeKB"],
                "retries": retries,
            },
        )
        return code

    def _container(self, index: int, task: Task, attempt: int) -> Container:
        try:
            runtime = self._node.runtime(self._node.runtimes[task.runtime])
        except RuntimeUnavailable as error:
            raise JobFailed(EXEC_FAILED, str(error)) from error
        spec = self._spec(index, task, attempt)
        with open(self._paths.containers, "a", encoding="utf-8") as handle:
            handle.write(json.dumps({"runtime": runtime.name, "name": spec.name}) + "\n")
        also = self._stdout_copy(index, task)
        return Container(runtime, spec, self._group.part(spec.name), self._paths.marker, also)

    def _stdout_copy(self, index: int, task: Task) -> int | None:
        """A new file in the job's home for what the task is to write there, too."""
        if task.stdout is None or self._folders is None:
            return None
        user = self._user
        home = os.open(self._folders.home, FOLDER)
        tree = Tree(home, (user.uid, user.gid) if user.own else None)
        try:
            return tree.create(parts_of(task.stdout), 0o644)
        except (Unsafe, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise JobFailed(EXEC_FAILED, f"tasks[{index}].stdout: {task.stdout} can't be written, {why}") from error
        finally:
            tree.close()
            os.close(home)

    def _try(self, index: int, task: Task, attempt: int, deadline: float) -> int:
        work = self._container(index, task, attempt)
        began = time.monotonic()
        guarded = self._supervisor.start(work, limited=True)
        try:
            current.begin(self._paths, work.runtime.name, work.spec, guarded.number)
            result = self._supervisor.wait(guarded, deadline)
        except Interrupted:
            self._used(index, attempt, guarded.result or {"code": 137, "wall": time.monotonic() - began})
            raise
        finally:
            current.end(self._paths)
        if result["error"] is not None:
            raise JobFailed(EXEC_FAILED, str(result["error"]))
        self._used(index, attempt, result)
        if self._group.oom_kills() or result["oom"]:
            raise Interrupted("killed", "Job used too much memory", limit=True)
        return int(result["code"])

    def _used(self, index: int, attempt: int, result: Mapping[str, Any]) -> None:
        self._tasks[index].usage = {
            "exitCode": int(result["code"]),
            "wallTimeUsage": round(float(result["wall"]), 3),
            "cpuTimeUsage": round(float(result.get("cpu", 0.0)), 3),
            "maxResidentSetSizeKB": int(result.get("max_rss_kb", 0)),
            "retries": attempt,
        }

    def _spec(self, index: int, task: Task, attempt: int) -> ContainerSpec:
        image, folders = self._tasks[index].image, self._folders
        if image is None or folders is None:
            raise JobFailed(EXEC_FAILED, f"task {index} has no image")
        resources = self._assignment.resources
        workdir = posixpath.normpath(posixpath.join(HOME, task.workdir or ""))
        # tasks share a writable root one after the other; who runs beside them has his own
        scratch = os.path.join(folders.scratch, f"sidecar-{index}") if task.is_sidecar else folders.scratch
        return ContainerSpec(
            name=f"p{self._assignment.lease}-{index}-{attempt}",
            image=image,
            argv=None if task.argv is None else list(task.argv),
            env=self._environment(index, task),
            workdir="/" + workdir.lstrip("/"),
            home=folders.home,
            tmp=folders.tmp,
            binds=self._binds(folders.home),
            uid=self._user.uid,
            gid=self._user.gid,
            memory_mb=resources.memory_mb,
            cpus=resources.cpus,
            writable=task.runtime == "udocker",
            scratch=scratch,
            app=task.app,
        )

    def _binds(self, home: str) -> list[tuple[str, str]]:
        """The volume, and what artifacts are mounted at: each folder there and, so that nobody can move it, at home."""
        volume = [] if self._storage is None else self._storage.binds
        return [*volume, *self._mounted(home)]

    def _mounted(self, home: str) -> list[tuple[str, str]]:
        binds: list[tuple[str, str]] = []
        for artifact in self._assignment.artifacts:
            if artifact.mount is not None:
                folder, path = artifact.mount
                try:
                    check_mount(home, folder)
                except StagingFailed as error:
                    raise JobFailed(EXEC_FAILED, str(error)) from error
                host = posixpath.join(home, folder)
                binds += [(host, posixpath.join(HOME, folder)), (host, posixpath.normpath(path))]
        return list(dict.fromkeys(binds))

    def _environment(self, index: int, task: Task) -> dict[str, str]:
        environment = dict(task.env)
        environment.update(self._assignment.env)
        environment.update(
            {
                "HOME": HOME,
                "TMP": TMP,
                "TEMP": TMP,
                "TMPDIR": TMP,
                "USER": "user",
                "PROMINENCE_TOKEN": self._assignment.job_token,
                "PROMINENCE_TASK_NUM": str(index),
                "PROMINENCE_CONTAINER_RUNTIME": task.runtime,
                "PROMINENCE_LEASE": self._assignment.lease,
            }
        )
        return environment

    # -- the account of it

    def execution(self) -> dict[str, Any]:
        resources = self._assignment.resources
        versions: dict[str, str] = {}
        for task in self._assignment.tasks:
            command = self._node.runtimes.get(task.runtime)
            if command is not None:
                versions[task.runtime] = f"{command} {self._node.version(command)}".strip()
        found: dict[str, Any] = {
            "provisionedResources": {
                "cpus": resources.cpus,
                "memory": _whole(resources.memory_mb / 1024),
                "disk": _whole(resources.disk_mb / 1024),
                "nodes": self._assignment.nodes,
            },
            "cpu": facts.processor(),
            "runtimeVersion": versions,
            "maxMemoryUsageKB": self._max_memory_kb(),
            "tasks": [state.execution() for state in self._tasks if state.pull],
        }
        if self._stage_in_s > 0:
            found["stageInTime"] = round(self._stage_in_s, 3)
        if self._stage_out_s > 0:
            found["stageOutTime"] = round(self._stage_out_s, 3)
        return found

    def _max_memory_kb(self) -> int:
        candidates = [int(state.usage.get("maxResidentSetSizeKB", 0)) for state in self._tasks]
        candidates.append(self._supervisor.memory.peak_kb)
        candidates.append(self._group.peak_kb() or 0)
        return max(candidates)


def _reaches(allowed: str, phase: str) -> bool:
    return allowed in _BORDERS and _BORDERS.index(allowed) >= _BORDERS.index(phase)


def _ended_by(interruption: Interrupted) -> Outcome:
    return Outcome(interruption.status, interruption.reason, False, interruption.stale)


def _whole(number: float) -> float:
    return int(number) if number == int(number) else round(number, 3)


def tail_wanted(outcome: Outcome) -> bool:
    return outcome.status != "completed" or not outcome.node_success


def end_report(job: Job, outcome: Outcome, folder: str, leavings: Leavings | None) -> tuple[str, dict[str, Any]]:
    data: dict[str, Any] = {
        "status": outcome.status,
        "reason": outcome.reason,
        "node_success": outcome.node_success,
        "execution": job.execution(),
    }
    if tail_wanted(outcome):
        data["tail"] = spool.tail(folder)
    if leavings is not None:
        data["kept_s"] = leavings.keep_s
    return "end", data
