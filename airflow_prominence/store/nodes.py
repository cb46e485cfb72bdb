"""Nodes: their registration, their polls, and what becomes of jobs when one is lost.

Rows are locked in one order everywhere (node, then jobs, then sites), so that two transactions never wait for
each other.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from airflow_prominence.store import capacity, commands, kept
from airflow_prominence.store.notify import ask_for_placing
from airflow_prominence.store.phases import DONE, ENDED, GRANTED, NODE_DRAINING, NODE_LOST, NODE_UP, STARTED
from airflow_prominence.store.tables import Lease, Node, Site
from airflow_prominence.store.transitions import evict, lock_job


class UnknownBoot(Exception):
    """The node's service has to register (again): the API does not know this start of it."""


@dataclass(frozen=True)
class NodeOffer:
    """What a node says of itself when it registers; sizes in MB."""

    name: str
    site: str
    kind: str
    boot: str
    cpus: int
    memory_mb: int
    disk_mb: int
    runtimes: Mapping[str, str]
    runtime_info: Mapping[str, Any]
    agent_version: str


@dataclass(frozen=True)
class PollAnswer:
    """What a node shall do: leases to start, ``(lease, why)`` to stop, records it may forget, orders to carry out."""

    start: tuple[str, ...]
    stop: tuple[tuple[str, str], ...]
    forget: tuple[str, ...]
    orders: tuple[commands.Given, ...]

    def __bool__(self) -> bool:
        return bool(self.start or self.stop or self.forget or self.orders)


def register(session: Session, offer: NodeOffer) -> Node:
    """Make the node known or known again, and give its room to who waits for it."""
    now = time.time()
    session.execute(insert(Site).values(name=offer.site, kind=offer.kind, updated_at=now).on_conflict_do_nothing())
    query = select(Node).where(Node.site == offer.site, Node.name == offer.name).with_for_update()
    node = session.scalars(query).one_or_none()
    if node is None:
        node = Node(site=offer.site, name=offer.name, state=NODE_UP, registered_at=now)
        session.add(node)
    elif node.state != NODE_DRAINING:
        node.state = NODE_UP
    node.boot, node.last_seen, node.registered_at = offer.boot, now, now
    node.cpus, node.memory_mb, node.disk_mb = offer.cpus, offer.memory_mb, offer.disk_mb
    node.runtimes, node.runtime_info = dict(offer.runtimes), dict(offer.runtime_info)
    node.agent_version = offer.agent_version
    session.flush()
    ask_for_placing(session)
    return node


def id_of(session: Session, site: str, name: str) -> int | None:
    """Return the id of a node that has registered."""
    return session.scalars(select(Node.id).where(Node.site == site, Node.name == name)).one_or_none()


def seen(session: Session, node_id: int, boot: str) -> Node:
    """Note a sign of life; raise :class:`UnknownBoot` if the node must register first."""
    node = session.scalars(select(Node).where(Node.id == node_id).with_for_update()).one_or_none()
    if node is None or node.boot != boot or node.state == NODE_LOST:
        raise UnknownBoot("this node has to register again")
    node.last_seen = time.time()
    return node


def answer_poll(session: Session, node_id: int, held: Mapping[str, str], orders: Collection[str] | None) -> PollAnswer:
    """Compare what the node holds with what it should hold.

    ``held`` is the node's whole list: lease id to ``running`` or ``ended``, and of ended ones ``kept`` while their
    directory is there and ``dropping`` while it is being removed. A lease is repeated in ``start``
    until the node lists it. One that was asked to stop ends here when the node lists it as ended (its runner may
    have been told that it is stale, and gone without a last report) or doesn't list it (it never got there).
    ``orders`` are the ids of those that the node works on, ``None`` from an agent that knows of none.
    """
    start: list[str] = []
    stop: list[tuple[str, str]] = []
    back: list[Lease] = []
    mine = session.scalars(
        select(Lease).where(Lease.node_id == node_id, Lease.state != ENDED).order_by(Lease.granted_at)
    ).all()
    for lease in mine:
        if lease.id in held:
            if held[lease.id] != "running":
                if lease.stop_reason:
                    back.append(lease)
            elif lease.stop_reason:
                stop.append((lease.id, lease.stop_reason))
        elif lease.stop_reason:
            back.append(lease)
        else:
            if lease.state == GRANTED:
                lease.state, lease.started_at = STARTED, time.time()
            start.append(lease.id)
    over = set(held) - {lease.id for lease in mine}
    for lease_id in sorted(over):
        if held[lease_id] == "running":
            stop.append((lease_id, "over"))
    keep = kept.settle(session, node_id, held)
    forget = tuple(sorted(one for one in over if held[one] == "ended" or (held[one] == kept.KEPT and one not in keep)))
    if back:
        _take_back(session, back)
    fresh = () if orders is None else commands.for_node(session, node_id, orders)
    session.flush()
    return PollAnswer(tuple(start), tuple(stop), forget, fresh)


def _take_back(session: Session, leases: list[Lease]) -> None:
    for lease in leases:
        job = lock_job(session, lease.job_id)
        capacity.end_lease(session, lease)
        if job is not None:
            capacity.settle_release(session, job)
    ask_for_placing(session)


def lease_lost(session: Session, node_id: int, lease_id: str, reason: str) -> None:
    """The node says that nothing of a lease lives any more and its end was never reported."""
    lease = session.scalars(select(Lease).where(Lease.id == lease_id, Lease.node_id == node_id)).one_or_none()
    if lease is None or lease.state == ENDED:
        return
    job = lock_job(session, lease.job_id)
    capacity.end_lease(session, lease)
    if job is not None:
        if job.phase != DONE and job.attempt == lease.attempt:
            evict(session, job, reason)
        capacity.settle_release(session, job)
    ask_for_placing(session)


def lose_silent(session: Session, now: float, up_since: float, evict_after_s: float, grace_s: float) -> list[str]:
    """Mark nodes lost whose silence counts, and evict their jobs; return the nodes' names.

    Silence counts from the node's last sign, but only while an API server was up to hear: after an outage of
    ours every node gets ``grace_s`` anew (``design.md``, "The agent is autonomous").
    """
    lost: list[str] = []
    candidates = session.scalars(
        select(Node)
        .where(Node.state != NODE_LOST, Node.last_seen < now - evict_after_s)
        .with_for_update(skip_locked=True)
    ).all()
    for node in candidates:
        if now < up_since + grace_s:
            continue
        node.state = NODE_LOST
        lost.append(node.name)
        session.flush()
        for lease in session.scalars(select(Lease).where(Lease.node_id == node.id, Lease.state != ENDED)).all():
            job = lock_job(session, lease.job_id)
            capacity.end_lease(session, lease)
            if job is None:
                continue
            if job.phase != DONE and job.attempt == lease.attempt:
                evict(session, job, f"Node {node.name} has not been heard of for {now - node.last_seen:.0f} s")
            capacity.settle_release(session, job)
    return lost
