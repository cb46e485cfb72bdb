"""Waking long-polls: one LISTEN connection per API worker; nobody holds a database session while waiting."""

from __future__ import annotations

import asyncio
import logging
import select
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg2
import psycopg2.extensions
from airflow import settings as airflow_settings

from airflow_prominence.store.notify import JOB_CHANNEL, NODE_CHANNEL, ORDER_CHANNEL, PLACING_CHANNEL, SETTLING_CHANNEL

log = logging.getLogger(__name__)

T = TypeVar("T")

#: How long a waiter sleeps at most before it looks for itself: while we hear PostgreSQL, and while we don't (seconds).
_LOOK_HEARING_S = 10.0
_LOOK_DEAF_S = 2.0

_Key = tuple[str, int]


class Hub:
    """Fans PostgreSQL's notifications out to this worker's waiters, by channel and id."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiters: dict[_Key, set[asyncio.Event]] = defaultdict(set)
        self._everyone: set[asyncio.Event] = set()
        self._turns: dict[str, asyncio.Event] = {}
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._hearing = False

    def start(self) -> None:
        """Begin to listen; called on the event loop that the waiters run on."""
        self._loop = asyncio.get_running_loop()
        self._stop.clear()
        self._thread = threading.Thread(target=self._listen, name="prominence-listen", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the listening thread and wake everybody, so that a server's shutdown waits for no long-poll."""
        self._stop.set()
        self._wake_all()

    @property
    def stopping(self) -> bool:
        """Tell whether the server is going down."""
        return self._stop.is_set()

    async def wait_for(
        self,
        channel: str,
        ids: Iterable[int],
        look: Callable[[], Awaitable[T]],
        timeout: float,
        turn: str | None = None,
    ) -> T:
        """Call ``look`` until it answers something truthy or ``timeout`` seconds are over; return its last answer.

        Subscribes before it looks, so nothing that happens between a look and the wait is missed. A waiter that has
        a ``turn`` ends the one before it of the same turn: that one's client has hung up and asks anew.
        """
        with self.listening(channel, ids) as mine:
            self._take_turn(turn, mine)
            deadline = time.monotonic() + timeout
            try:
                while True:
                    mine.clear()
                    answer = await look()
                    left = deadline - time.monotonic()
                    if answer or left <= 0 or self.stopping or self._turn_is_over(turn, mine):
                        return answer
                    pause = min(left, _LOOK_HEARING_S if self._hearing else _LOOK_DEAF_S)
                    try:
                        await asyncio.wait_for(mine.wait(), pause)
                    except asyncio.TimeoutError:
                        continue
            finally:
                if turn is not None and self._turns.get(turn) is mine:
                    del self._turns[turn]

    @contextmanager
    def listening(self, channel: str, ids: Iterable[int]) -> Iterator[asyncio.Event]:
        """An event that is set whenever one of these is notified of, and whenever something may have been missed."""
        mine = asyncio.Event()
        keys = [(channel, item) for item in ids]
        for key in keys:
            self._waiters[key].add(mine)
        self._everyone.add(mine)
        try:
            yield mine
        finally:
            self._everyone.discard(mine)
            for key in keys:
                self._waiters[key].discard(mine)
                if not self._waiters[key]:
                    del self._waiters[key]

    def _take_turn(self, turn: str | None, mine: asyncio.Event) -> None:
        if turn is not None:
            before = self._turns.get(turn)
            self._turns[turn] = mine
            if before is not None:
                before.set()

    def _turn_is_over(self, turn: str | None, mine: asyncio.Event) -> bool:
        return turn is not None and self._turns.get(turn) is not mine

    def _wake(self, key: _Key) -> None:
        for event in self._waiters.get(key, ()):
            event.set()

    def _wake_all(self) -> None:
        for event in self._everyone:
            event.set()

    def _listen(self) -> None:
        while not self._stop.is_set():
            connection: Any = None
            try:
                connection = _connect()
                self._hearing = True
                # What was notified while nobody listened is gone: let all look for themselves once.
                self._on_loop(self._wake_all)
                self._hear(connection)
            except (psycopg2.Error, OSError) as error:
                if not self._stop.is_set():
                    log.warning("not listening to PostgreSQL, will try again: %s", str(error).strip())
            finally:
                self._hearing = False
                if connection is not None:
                    connection.close()
            self._stop.wait(1.0)

    def _hear(self, connection: Any) -> None:
        while not self._stop.is_set():
            ready, _, _ = select.select([connection], [], [], 0.5)
            if not ready:
                continue
            connection.poll()
            heard = {(note.channel, int(note.payload)) for note in connection.notifies if note.payload.isdigit()}
            connection.notifies.clear()
            for key in heard:
                self._on_loop(self._wake, key)

    def _on_loop(self, action: Callable[..., None], *args: Any) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(action, *args)


def _connect() -> Any:
    engine = airflow_settings.get_engine()
    if engine.dialect.name != "postgresql":
        raise OSError("the metadata database is not PostgreSQL")
    args, kwargs = engine.dialect.create_connect_args(engine.url)
    connection = psycopg2.connect(*args, **kwargs)
    connection.set_isolation_level(psycopg2.extensions.ISOLATION_LEVEL_AUTOCOMMIT)
    with connection.cursor() as cursor:
        for channel in (JOB_CHANNEL, NODE_CHANNEL, ORDER_CHANNEL, PLACING_CHANNEL, SETTLING_CHANNEL):
            cursor.execute(f'LISTEN "{channel}"')
    return connection


hub = Hub()
