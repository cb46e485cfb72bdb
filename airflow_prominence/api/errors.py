"""Errors as the client understands them: one sentence under ``error`` (``prominence.md`` 0.3), never a 422."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from airflow_prominence.api.database import DatabaseGone
from airflow_prominence.documents import DocumentError
from airflow_prominence.objects import StoreUnavailable

log = logging.getLogger(__name__)


class ApiError(Exception):
    """A refusal with its status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


def error_response(status: int, sentence: str) -> JSONResponse:
    """Return the one shape of an error."""
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"error": sentence}, status_code=status, headers=headers)


def database_gone(error: Exception) -> JSONResponse:
    """Return 503: the caller should come again."""
    log.warning("the database does not answer: %s", error)
    return error_response(503, "The database does not answer at the moment, please try again")


def install(app: FastAPI) -> None:
    """Make every refusal and failure of the app a JSON ``error``."""

    @app.exception_handler(ApiError)
    async def refused(_request: Request, error: ApiError) -> JSONResponse:
        return error_response(error.status, error.sentence)

    @app.exception_handler(DocumentError)
    async def bad_document(_request: Request, error: DocumentError) -> JSONResponse:
        return error_response(400, str(error))

    @app.exception_handler(RequestValidationError)
    async def bad_parameter(_request: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(400, _first(error.errors()))

    @app.exception_handler(HTTPException)
    async def http_error(_request: Request, error: HTTPException) -> JSONResponse:
        return error_response(error.status_code, str(error.detail))

    @app.exception_handler(StoreUnavailable)
    async def no_objects(_request: Request, error: StoreUnavailable) -> JSONResponse:
        log.warning("the object storage does not answer: %s", error)
        return error_response(503, "The object storage does not answer at the moment, please try again")

    @app.exception_handler(DatabaseGone)
    async def no_database(_request: Request, error: Exception) -> JSONResponse:
        return database_gone(error)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return error_response(500, "The server failed to handle this request; its log says more")


def _first(errors: Any) -> str:
    problem = errors[0]
    place = ".".join(str(part) for part in problem.get("loc", ()) if part not in ("query", "path", "body"))
    return f"{place or 'request'}: {problem.get('msg', 'is not valid')}"
