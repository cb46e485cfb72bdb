"""Giving nodes to jobs and taking them back: leases, in one transaction with the sites' rows locked."""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Boolean, String, column, exists, func, select, table
from sqlalchemy.orm import Session

from airflow_prominence.placement import Busy, Capacity, Grant, Need, could_ever_fit, in_order, schedule
from airflow_prominence.store.notify import tell, touch, wake_node
from airflow_prominence.store.phases import DONE, ENDED, GRANTED, NODE_UP, QUEUED, READY, status_of
from airflow_prominence.store.tables import Attempt, Job, Lease, Node, Site

WAITING = "No matching resources currently available"
IMPOSSIBLE = "No matching resources"

#: How many waiting jobs one pass looks at; the rest is looked at when these have gone.
_WINDOW = 500

_dag = table("dag", column("dag_id", String), column("is_paused", Boolean))


def need_of(job: Job) -> Need:
    """Return what the job's attempt asks of a site."""
    resources = job.document["resources"]
    molds = "cpusRange" in resources
    # Of two options the second is the one that is liked better; where it is the smaller one, nothing is above it.
    liked = resources.get("cpusRange") or resources.get("cpusOptions") or (0, 0)
    return Need(
        job_id=job.id,
        owner=job.owner,
        priority=job.priority,
        nodes=job.nodes,
        cpus=job.cpus,
        memory_mb=job.memory_mb,
        disk_mb=job.disk_mb,
        walltime_s=float(job.walltime_s),
        runtimes=frozenset(task["runtime"] for task in job.tasks),
        most_cpus=int(liked[1]),
        molds=molds,
        memory_mb_per_cpu=float(resources.get("memoryPerCpu", 0)) * 1024,
    )


def lock_sites(session: Session) -> None:
    """Make this transaction the only one that gives or counts capacity until it ends."""
    session.execute(select(Site.name).order_by(Site.name).with_for_update())


def capacities(session: Session, states: Iterable[str] = (NODE_UP,)) -> list[Capacity]:
    """Return the nodes in the given states with what is leased of them."""
    busy: dict[int, list[Busy]] = defaultdict(list)
    open_leases = select(Lease, Job.walltime_s).join(Job, Job.id == Lease.job_id).where(Lease.state != ENDED)
    for lease, walltime_s in session.execute(open_leases):
        until = (lease.started_at or lease.granted_at) + walltime_s
        busy[lease.node_id].append(Busy(lease.cpus, lease.memory_mb, lease.disk_mb, until))
    nodes = session.scalars(select(Node).where(Node.state.in_(list(states))).order_by(Node.id))
    return [
        Capacity(
            node_id=node.id,
            site=node.site,
            cpus=node.cpus,
            memory_mb=node.memory_mb,
            disk_mb=node.disk_mb,
            runtimes=frozenset(node.runtimes),
            busy=tuple(busy[node.id]),
        )
        for node in nodes
    ]


@dataclass(frozen=True)
class SiteRoom:
    """What the nodes of a site that are up have together, and what of it is not leased."""

    name: str
    cpus: int
    memory_mb: int
    free_cpus: int
    free_memory_mb: int


def by_site(session: Session) -> list[SiteRoom]:
    """Return the room of every site that has a node which is up."""
    nodes: dict[str, list[Capacity]] = defaultdict(list)
    for node in capacities(session):
        nodes[node.site].append(node)
    return [
        SiteRoom(
            name=site,
            cpus=sum(node.cpus for node in mine),
            memory_mb=sum(node.memory_mb for node in mine),
            free_cpus=sum(max(0, node.free_cpus) for node in mine),
            free_memory_mb=sum(max(0, node.free_memory_mb) for node in mine),
        )
        for site, mine in nodes.items()
    ]


def place_waiting(session: Session) -> list[int]:
    """Give free capacity to the jobs that want it, in order; return the ids of those that got some.

    Called in the transaction of every claim, release and registration of a node, so whatever changed is used at
    once by whoever is first in the queue. Jobs of a paused DAG are passed over.
    """
    lock_sites(session)
    nodes = capacities(session)
    if not any(_has_room(node) for node in nodes):
        # Nothing could be granted; a thousand waiting jobs need not be read to find that out.
        return []
    paused = select(_dag.c.dag_id).where(_dag.c.is_paused.is_(True))
    # The attempt before, ended from outside, may still live on its node: no two of a job run at once.
    lives = exists().where(Lease.job_id == Job.id, Lease.state != ENDED)
    waiting = session.scalars(
        select(Job)
        .where(Job.phase == QUEUED, Job.wants_capacity.is_(True), Job.dag_id.not_in(paused), ~lives)
        .order_by(Job.priority.desc(), Job.id)
        .limit(_WINDOW)
        .with_for_update(skip_locked=True)
    ).all()
    if not waiting:
        return []
    by_id = {job.id: job for job in waiting}
    grants = schedule(in_order(map(need_of, waiting), _cpus_in_use(session)), nodes, time.time())
    for grant in grants:
        _grant(session, by_id[grant.job_id], grant)
    return [grant.job_id for grant in grants]


def _has_room(node: Capacity) -> bool:
    return node.free_cpus > 0 and node.free_memory_mb > 0 and node.free_disk_mb > 0


def _cpus_in_use(session: Session) -> dict[str, int]:
    rows = session.execute(
        select(Job.owner, func.sum(Lease.cpus))
        .join(Lease, Lease.job_id == Job.id)
        .where(Lease.state != ENDED)
        .group_by(Job.owner)
    )
    return {owner: int(cpus) for owner, cpus in rows}


def _grant(session: Session, job: Job, grant: Grant) -> None:
    now = time.time()
    names = []
    for node_num, node_id in enumerate(grant.node_ids):
        session.add(
            Lease(
                id=uuid.uuid4().hex,
                job_id=job.id,
                attempt=job.attempt,
                node_num=node_num,
                node_id=node_id,
                cpus=grant.cpus,
                memory_mb=grant.memory_mb,
                disk_mb=job.disk_mb,
                state=GRANTED,
                seq=0,
                granted_at=now,
            )
        )
        names.append(session.get_one(Node, node_id).name)
        wake_node(session, node_id)
    attempt = session.get_one(Attempt, (job.id, job.attempt))
    attempt.site, attempt.ready_at = grant.site, now
    job.phase, job.wants_capacity, job.reason = READY, False, ""
    job.status = status_of(READY)
    times = f", attempt {job.attempt} of {job.max_attempts}" if job.max_attempts > 1 else ""
    tell(
        session,
        job,
        "placed",
        f"Placed at site {grant.site} on {', '.join(names)}: {grant.cpus} CPU, {grant.memory_mb / 1024:g} GB memory, "
        f"{job.disk_mb / 1024:g} GB disk{times}",
        now,
    )
    touch(session, job)
    session.flush()


def impossible(session: Session, job: Job) -> bool:
    """Tell whether nodes are known and none of them, not even a lost one, could ever run the job."""
    known = capacities(session, (NODE_UP, "draining", "lost"))
    return bool(known) and not could_ever_fit(need_of(job), known)


def want_capacity(session: Session, job: Job) -> None:
    """Register a queued job as wanting nodes; its reason says that it waits."""
    if job.phase != QUEUED or job.wants_capacity:
        return
    job.wants_capacity = True
    # A job that waited for others has queued since now.
    queue_min = int(job.policies.get("maximumTimeInQueue", 0))
    if queue_min > 0 and job.queue_until is None:
        job.queue_until = time.time() + queue_min * 60
    session.flush()


def mark_waiting(session: Session, job: Job) -> None:
    """Say on the job that it waits for room."""
    if job.phase == QUEUED and job.reason != WAITING:
        job.reason = WAITING
        tell(session, job, "waiting", "Waiting for room: " + WAITING[0].lower() + WAITING[1:])
        touch(session, job)


def leases_of(session: Session, job_id: int, attempt: int | None = None) -> list[Lease]:
    """Return a job's leases, node 0 first; of one attempt, or of all."""
    query = select(Lease).where(Lease.job_id == job_id).order_by(Lease.attempt, Lease.node_num)
    if attempt is not None:
        query = query.where(Lease.attempt == attempt)
    return list(session.scalars(query))


def stop_leases(session: Session, job: Job, why: str) -> None:
    """Ask the nodes to end what still runs for the job; a lease that no node was told of yet ends at once."""
    for lease in leases_of(session, job.id):
        if lease.state == ENDED or lease.stop_reason:
            continue
        lease.stop_reason = why
        if lease.state == GRANTED:
            end_lease(session, lease)
        else:
            wake_node(session, lease.node_id)
    session.flush()


def end_lease(session: Session, lease: Lease) -> None:
    """Take a node's share back; the job counts as released when its last one has come back."""
    if lease.state == ENDED:
        return
    lease.state, lease.ended_at = ENDED, time.time()
    session.flush()


def settle_release(session: Session, job: Job) -> None:
    """Mark a finished job released once no lease of it is open."""
    if job.phase != DONE or job.released_at is not None:
        return
    still_open = session.scalar(
        select(func.count()).select_from(Lease).where(Lease.job_id == job.id, Lease.state != ENDED)
    )
    if not still_open:
        job.released_at = time.time()
        touch(session, job)
