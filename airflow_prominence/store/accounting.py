"""What jobs have used: CPU and wall time by user or by group, summed up by the database (``prominence.md`` 1.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Float,
    FromClause,
    Integer,
    Select,
    Subquery,
    Text,
    case,
    cast,
    func,
    insert,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, JSONPATH
from sqlalchemy.orm import Session

from airflow_prominence.store.tables import Attempt, Job, KeptUsage


@dataclass(frozen=True)
class Usage:
    """What was used, in hours; wall time counts once for each core that was held."""

    cpu_h: float
    wall_h: float
    jobs: int


def by_user(
    session: Session, start: float, end: float, owners: Sequence[str], groups: Sequence[str]
) -> dict[str, Usage]:
    """Return what each user's jobs used that ended in ``start <= time < end`` (epoch seconds).

    The users are ``owners``, and whoever's jobs belong to one of ``groups``.
    """
    used = _used(start, end)
    wanted: ColumnElement[bool] = used.c.owner.in_(owners)
    if groups:
        wanted = wanted | _belongs_to(used, groups)
    return _summed(session, used, used, used.c.owner, wanted)


def by_group(session: Session, start: float, end: float, groups: Sequence[str]) -> dict[str, Usage]:
    """Return what the jobs of all members of each of ``groups`` used; a job of two groups counts for both."""
    if not groups:
        return {}
    used = _used(start, end)
    # The function reads the other table's column, so it has to come after it.
    group = func.jsonb_array_elements_text(used.c.groups).table_valued("value").render_derived("member")
    return _summed(session, used.join(group, true()), used, group.c.value, group.c.value.in_(groups))


def keep(session: Session, job_id: int) -> None:
    """Write down what a job has used whose description is about to go."""
    columns = ("job_id", "attempt", "owner", "owner_groups", "ended_at", "cpu_s", "wall_s")
    session.execute(insert(KeptUsage).from_select(columns, _of_attempts().where(Job.id == job_id)))


def _belongs_to(used: Subquery, groups: Sequence[str]) -> ColumnElement[bool]:
    belongs: ColumnElement[bool] = used.c.groups.has_any(cast(list(groups), ARRAY(Text)))
    return belongs


def _used(start: float, end: float) -> Subquery:
    """What was used by jobs that are there, and by those whose descriptions are gone."""
    there = _of_attempts().where(Attempt.ended_at >= start, Attempt.ended_at < end)
    kept = select(
        KeptUsage.job_id,
        KeptUsage.attempt,
        KeptUsage.owner,
        cast(KeptUsage.owner_groups, JSONB),
        KeptUsage.ended_at,
        KeptUsage.cpu_s,
        KeptUsage.wall_s,
    ).where(KeptUsage.ended_at >= start, KeptUsage.ended_at < end)
    return union_all(there, kept).subquery()


def _of_attempts() -> Select[Any]:
    """Every attempt counts that came to run: what a job used before it was tried again was used, too."""
    execution = cast(Attempt.execution, JSONB)
    provisioned = execution["provisionedResources"]
    cores = func.coalesce(cast(provisioned["cpus"].astext, Integer), Job.cpus) * Job.nodes
    wall = _total(execution, "wallTimeUsage")
    # An attempt that was lost or deleted has no report of its own: then the clock tells.
    by_clock = func.greatest(Attempt.ended_at - Attempt.running_at, 0.0)
    return (
        select(
            Job.id.label("job_id"),
            Attempt.attempt.label("attempt"),
            Job.owner.label("owner"),
            cast(Job.owner_groups, JSONB).label("groups"),
            Attempt.ended_at.label("ended_at"),
            func.coalesce(_total(execution, "cpuTimeUsage"), 0.0).label("cpu_s"),
            (case((wall.is_(None), by_clock), else_=wall) * cores).label("wall_s"),
        )
        .select_from(Attempt)
        .join(Job, Job.id == Attempt.job_id)
        .where(Attempt.running_at.is_not(None), Attempt.ended_at.is_not(None))
    )


def _total(execution: Any, key: str) -> ColumnElement[Any]:
    """The sum over the tasks, ``NULL`` where no task says; what a node reports need not be a number."""
    path = f'$.tasks[*].{key} ? (@.type() == "number")'
    values = func.jsonb_path_query(execution, cast(path, JSONPATH)).table_valued("value").render_derived(key.lower())
    return select(func.sum(cast(cast(values.c.value, Text), Float(53)))).scalar_subquery()


def _summed(
    session: Session, source: FromClause, used: Subquery, name: Any, *where: ColumnElement[bool]
) -> dict[str, Usage]:
    rows = session.execute(
        select(name, func.sum(used.c.cpu_s), func.sum(used.c.wall_s), func.count(func.distinct(used.c.job_id)))
        .select_from(source)
        .where(*where)
        .group_by(name)
        .order_by(name)
    )
    return {str(who): Usage(float(cpu) / 3600, float(wall) / 3600, int(jobs)) for who, cpu, wall, jobs in rows}
