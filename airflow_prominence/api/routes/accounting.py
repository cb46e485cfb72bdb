"""``/accounting``: what one's jobs and those of one's groups have used (``prominence.md`` 1.5)."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse

from airflow_prominence.api.auth import CallerDep
from airflow_prominence.api.database import transact
from airflow_prominence.api.errors import ApiError
from airflow_prominence.store import accounting

router = APIRouter(tags=["accounting"])

Text = Annotated[str | None, Query()]


@router.get("/accounting", summary="Historical usage")
def read_usage(
    caller: CallerDep, start: Text = None, end: Text = None, by_group: Text = None, show_all_users: Text = None
) -> JSONResponse:
    """Return CPU hours, wall time hours times cores, and numbers of jobs, from ``start`` to ``end`` (days of UTC).

    One's own usage; with ``by_group`` that of each of one's groups instead, with ``show_all_users`` that of each
    user of one's groups. What counts is the day on which a job ended.
    """
    first, last = _day(start, "Start", "start"), _day(end, "End", "end")
    if last < first:
        raise ApiError(400, "end: must not be before start")
    since, until = _midnight(first), _midnight(last + dt.timedelta(days=1)) if last < dt.date.max else float("inf")
    groups, everyone = by_group == "true", show_all_users == "true"

    def work(session: Session) -> dict[str, Any]:
        usage: dict[str, dict[str, accounting.Usage]] = {"users": {}, "groups": {}}
        if everyone or not groups:
            shared = caller.groups if everyone else ()
            usage["users"] = accounting.by_user(session, since, until, [caller.name], shared)
        if groups:
            usage["groups"] = accounting.by_group(session, since, until, caller.groups)
        return {"usage": {kind: {name: _shown(used) for name, used in by.items()} for kind, by in usage.items()}}

    return JSONResponse(transact(work))


def _shown(used: accounting.Usage) -> dict[str, Any]:
    return {"cpuTime": used.cpu_h, "wallTime": used.wall_h, "numberOfJobs": used.jobs}


def _day(text: str | None, title: str, name: str) -> dt.date:
    if not text:
        raise ApiError(400, f"{title} date must be provided")
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        try:
            return dt.date.fromisoformat(text)
        except ValueError:
            pass
    raise ApiError(400, f"{name}: must be a date in the form YYYY-MM-DD")


def _midnight(day: dt.date) -> float:
    return dt.datetime(day.year, day.month, day.day, tzinfo=dt.timezone.utc).timestamp()
