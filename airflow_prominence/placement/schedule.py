"""First come, first served with back-filling: a smaller job may pass only if the first one isn't delayed by it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Need:
    """What one attempt of a job asks for; sizes are per node, in MB, times in seconds.

    ``cpus`` and ``memory_mb`` are the least that will do. With ``most_cpus`` the job would rather have that many cores,
    if it ``molds`` also any number between; ``memory_mb_per_cpu`` says what it then needs of memory, if that grows.
    """

    job_id: int
    owner: str
    priority: int
    nodes: int
    cpus: int
    memory_mb: int
    disk_mb: int
    walltime_s: float
    runtimes: frozenset[str] = frozenset()
    sites: frozenset[str] = frozenset()
    most_cpus: int = 0
    molds: bool = False
    memory_mb_per_cpu: float = 0.0

    def with_cpus(self, cpus: int) -> Need:
        """Return what the job asks for with so many cores, and no more than them."""
        memory_mb = math.ceil(self.memory_mb_per_cpu * cpus) or self.memory_mb
        return replace(self, cpus=cpus, memory_mb=memory_mb, most_cpus=0)


@dataclass(frozen=True)
class Busy:
    """A share of a node that is leased; ``until`` is when it ends at the latest, in the caller's clock (seconds)."""

    cpus: int
    memory_mb: int
    disk_mb: int
    until: float


@dataclass(frozen=True)
class Capacity:
    """A node that could take work: its whole size, what serves each runtime name, and what is leased of it."""

    node_id: int
    site: str
    cpus: int
    memory_mb: int
    disk_mb: int
    runtimes: frozenset[str]
    busy: Sequence[Busy] = field(default_factory=tuple)

    @property
    def free_cpus(self) -> int:
        """Cores not leased; negative if the node came back smaller than what it had leased."""
        return self.cpus - sum(busy.cpus for busy in self.busy)

    @property
    def free_memory_mb(self) -> int:
        """Memory not leased, likewise."""
        return self.memory_mb - sum(busy.memory_mb for busy in self.busy)

    @property
    def free_disk_mb(self) -> int:
        """Disk not leased, likewise."""
        return self.disk_mb - sum(busy.disk_mb for busy in self.busy)


@dataclass(frozen=True)
class Grant:
    """Nodes given to a job, node 0 first, and what of each (memory in MB)."""

    job_id: int
    site: str
    node_ids: tuple[int, ...]
    cpus: int
    memory_mb: int


def suits(need: Need, node: Capacity) -> bool:
    """Tell whether the node, were it empty, could run one node's share of the job."""
    return (
        need.cpus <= node.cpus
        and need.memory_mb <= node.memory_mb
        and need.disk_mb <= node.disk_mb
        and need.runtimes <= node.runtimes
        and (not need.sites or node.site in need.sites)
    )


def could_ever_fit(need: Need, nodes: Iterable[Capacity]) -> bool:
    """Tell whether some site has enough nodes that suit the job, whatever runs there now."""
    count: dict[str, int] = {}
    for node in nodes:
        if suits(need, node):
            count[node.site] = count.get(node.site, 0) + 1
    return any(found >= need.nodes for found in count.values())


@dataclass
class _Shelf:
    """A node while a schedule is made: what is left of it now, and what the first waiting job has reserved."""

    node: Capacity
    busy: list[Busy]
    reserved_at: float | None = None
    reserved: Need | None = None

    def fits_now(self, need: Need, now: float) -> bool:
        if not suits(need, self.node) or not _fits(need, self.node, self.busy):
            return False
        if self.reserved is None or self.reserved_at is None or now + need.walltime_s <= self.reserved_at:
            return True
        later = [busy for busy in self.busy if busy.until > self.reserved_at]
        later += [_as_busy(need, now), _as_busy(self.reserved, self.reserved_at)]
        return _within(self.node, later)

    def earliest(self, need: Need, now: float) -> float:
        """When the job would fit here if nothing new started, given that leases end by their ``until``."""
        for moment in [now, *sorted(busy.until for busy in self.busy)]:
            if _fits(need, self.node, [busy for busy in self.busy if busy.until > moment]):
                return max(moment, now)
        return now


def _as_busy(need: Need, start: float) -> Busy:
    return Busy(need.cpus, need.memory_mb, need.disk_mb, start + need.walltime_s)


def _within(node: Capacity, busy: Iterable[Busy]) -> bool:
    taken = list(busy)
    return (
        sum(b.cpus for b in taken) <= node.cpus
        and sum(b.memory_mb for b in taken) <= node.memory_mb
        and sum(b.disk_mb for b in taken) <= node.disk_mb
    )


def _fits(need: Need, node: Capacity, busy: Iterable[Busy]) -> bool:
    return _within(node, [*busy, _as_busy(need, 0)])


def schedule(ordered: Sequence[Need], nodes: Iterable[Capacity], now: float) -> list[Grant]:
    """Give nodes to the jobs of a queue that is already in order (:func:`in_order`).

    All nodes of a job come from one site, on distinct nodes, together or not at all. The first job that does not
    fit now reserves the nodes where it could start earliest; later jobs are placed only where they end before
    that moment or leave it room. A job that could use more cores than it must have gets what is free at its turn.
    """
    shelves = [_Shelf(node, list(node.busy)) for node in nodes]
    by_site: dict[str, list[_Shelf]] = {}
    for shelf in shelves:
        by_site.setdefault(shelf.node.site, []).append(shelf)
    grants: list[Grant] = []
    reserved = False
    for need in ordered:
        for size in _sizes(need, shelves):
            chosen = _choose(size, by_site, now)
            if chosen is not None:
                for shelf in chosen:
                    shelf.busy.append(_as_busy(size, now))
                node_ids = tuple(shelf.node.node_id for shelf in chosen)
                grants.append(Grant(need.job_id, chosen[0].node.site, node_ids, size.cpus, size.memory_mb))
                break
        else:
            reserved = reserved or _reserve(need, by_site, now)
    return grants


def _sizes(need: Need, shelves: Sequence[_Shelf]) -> Iterator[Need]:
    """Yield the job in the sizes that are worth a try, what it likes best first and the least last."""
    # Of a range only what some node has left, or it would be a try for each of a thousand cores.
    usable = [_usable_cpus(need, shelf) for shelf in shelves] if need.molds else [need.most_cpus]
    wanted = {min(need.most_cpus, cpus) for cpus in usable}
    for cpus in sorted(wanted, reverse=True):
        if cpus > need.cpus:
            yield need.with_cpus(cpus)
    yield need


def _usable_cpus(need: Need, shelf: _Shelf) -> int:
    cpus = _cpus_left(shelf)
    if not need.memory_mb_per_cpu:
        return cpus
    memory_mb = shelf.node.memory_mb - sum(busy.memory_mb for busy in shelf.busy)
    return min(cpus, int(memory_mb / need.memory_mb_per_cpu))


def _choose(need: Need, by_site: dict[str, list[_Shelf]], now: float) -> list[_Shelf] | None:
    for shelves in by_site.values():
        free = [shelf for shelf in shelves if shelf.fits_now(need, now)]
        if len(free) >= need.nodes:
            free.sort(key=lambda shelf: (_cpus_left(shelf) - need.cpus, shelf.node.node_id))
            return free[: need.nodes]
    return None


def _cpus_left(shelf: _Shelf) -> int:
    return shelf.node.cpus - sum(busy.cpus for busy in shelf.busy)


def _reserve(need: Need, by_site: dict[str, list[_Shelf]], now: float) -> bool:
    best: tuple[float, list[_Shelf]] | None = None
    for shelves in by_site.values():
        suited = sorted(
            ((shelf.earliest(need, now), shelf) for shelf in shelves if suits(need, shelf.node)),
            key=lambda pair: (pair[0], pair[1].node.node_id),
        )
        if len(suited) >= need.nodes:
            moment = suited[need.nodes - 1][0]
            if best is None or moment < best[0]:
                best = (moment, [shelf for _, shelf in suited[: need.nodes]])
    if best is None:
        return False
    for shelf in best[1]:
        shelf.reserved_at, shelf.reserved = best[0], need
    return True
