"""The order in which waiting jobs are looked at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from airflow_prominence.placement.schedule import Need


def in_order(waiting: Iterable[Need], cpus_in_use: Mapping[str, int]) -> list[Need]:
    """Order by priority (larger first), then the owner's fair share, then id (older first).

    Fair share is counted as the list is made: each job placed in it adds its CPUs to what its owner already
    uses, so two owners with nothing running alternate instead of one's whole sweep going first.
    """
    by_priority: dict[int, dict[str, list[Need]]] = {}
    for need in sorted(waiting, key=lambda need: need.job_id):
        by_priority.setdefault(need.priority, {}).setdefault(need.owner, []).append(need)
    share = dict(cpus_in_use)
    ordered: list[Need] = []
    for priority in sorted(by_priority, reverse=True):
        queues = {owner: iter(needs) for owner, needs in by_priority[priority].items()}
        heads = {owner: next(queue) for owner, queue in queues.items()}
        while heads:
            owner = min(heads, key=lambda name: (share.get(name, 0), heads[name].job_id))
            need = heads[owner]
            ordered.append(need)
            share[owner] = share.get(owner, 0) + need.cpus * need.nodes
            following = next(queues[owner], None)
            if following is None:
                del heads[owner]
            else:
                heads[owner] = following
    return ordered
