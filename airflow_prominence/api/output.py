"""A job's standard output and error as bytes: read piece by piece, while it runs and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sqlalchemy.orm import Session
from starlette.responses import Response, StreamingResponse

from airflow_prominence.api.database import transact
from airflow_prominence.api.errors import ApiError
from airflow_prominence.api.parameters import natural
from airflow_prominence.store import letters, queries
from airflow_prominence.store.tables import Job

_PIECE = 1024 * 1024


def stream(find: Callable[[Session], Job], which: str, node: str | None, offset: str | None) -> Response:
    """Answer ``stdout`` or ``stderr`` of the job that ``find`` returns, of one node, from a byte on."""
    node_num, start = natural(node, "node"), natural(offset, "offset")

    def locate(session: Session) -> tuple[int, int]:
        job = find(session)
        if node_num >= job.nodes:
            raise ApiError(400, f"{which} does not exist")
        source = queries.source_of(session, job)
        if source is None:
            raise ApiError(400, f"{which} was removed with job {job.kept_from}, which had written it")
        if source.stdout_gone_at is not None:
            gone = letters.day(source.stdout_gone_at)
            raise ApiError(400, f"{which} was removed on {gone}, as it is not kept longer")
        return source.id, queries.shown_attempt(session, source)

    number, attempt = transact(locate)

    def piece_from(position: int) -> Callable[[Session], bytes]:
        return lambda s: queries.read_output(s, number, attempt, node_num, which, position, _PIECE)

    # Before the status is sent: a database that does not answer is an error the client can read.
    first = transact(piece_from(start))

    def pieces() -> Iterator[bytes]:
        position, piece = start, first
        while piece:
            yield piece
            position += len(piece)
            piece = transact(piece_from(position))

    return StreamingResponse(pieces(), media_type="text/plain; charset=utf-8")
