"""Transactions of the API: short, synchronous, in a thread; tried again when PostgreSQL chose them as a victim."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from airflow_prominence._compat import create_session
from airflow_prominence.store import notify

log = logging.getLogger(__name__)

T = TypeVar("T")

_TRIES = 5
#: serialization_failure and deadlock_detected: nothing was written, so trying again is safe.
_AGAIN = ("40001", "40P01")


class DatabaseGone(Exception):
    """The database does not answer; the caller should come again."""


def transact(work: Callable[[Session], T]) -> T:
    """Run ``work`` in a transaction of its own and commit; it may run again, so it must do nothing but SQL."""
    for turn in range(_TRIES):
        try:
            with create_session() as session:
                result = work(session)
                notify.send(session)
                return result
        except DBAPIError as error:
            code = getattr(error.orig, "pgcode", None)
            if error.connection_invalidated or (isinstance(error, OperationalError) and code is None):
                # The pool's other connections may be as dead as this one; a new one may work at once.
                if turn == _TRIES - 1:
                    raise DatabaseGone(_first_line(error)) from None
            elif code not in _AGAIN or turn == _TRIES - 1:
                raise
            log.info("transaction is tried again after %s", type(error.orig).__name__)
            time.sleep(random.uniform(0.01, 0.05) * (turn + 1))  # noqa: S311
    raise DatabaseGone("the database does not answer")


def read(work: Callable[[Session], T]) -> T:
    """Run ``work``, which only reads, on one state of the database.

    A list is several queries, and what goes from active to finished between two of them would be in none or in both.
    """

    def at_one_moment(session: Session) -> T:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        return work(session)

    return transact(at_one_moment)


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().partition("\n")[0]


async def transact_async(work: Callable[[Session], T]) -> T:
    """Run a transaction in a worker thread, for routes that wait for other things on the event loop."""
    return await run_in_threadpool(transact, work)
