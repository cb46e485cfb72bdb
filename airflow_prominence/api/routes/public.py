"""Routes anybody may read: health and the schemas. Their names stand in ``PUBLIC``; nothing else is public."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from airflow_prominence import _compat, documents
from airflow_prominence.api.database import transact
from airflow_prominence.store import schema

_SCHEMAS = ("job.json", "workflow.json", "airflow.json", "openapi.json")

PUBLIC = frozenset({"/health", "/schemas", *(f"/schemas/{name}" for name in _SCHEMAS)})

router = APIRouter(tags=["public"])


@router.get("/health", summary="Is the service well?")
def health() -> Response:
    """Return 204 when all is well, else 409 with what isn't, comma-separated, under ``errors``."""
    troubles = _compat.unhealthy_components()
    if not transact(schema.is_current):
        troubles.append("prominence_schema")
    if not troubles:
        return Response(status_code=204)
    return JSONResponse({"errors": ",".join(troubles)}, status_code=409)


@router.get("/schemas", summary="Which schemas there are")
def list_schemas() -> dict[str, Any]:
    """Return the names of the schemas, relative to this path."""
    return {"schemas": list(_SCHEMAS)}


@router.get("/schemas/job.json", summary="JSON Schema of a job")
def job_schema() -> Response:
    """Return the schema every submitted job is checked against."""
    return Response(documents.schema_bytes("job"), media_type="application/schema+json")


@router.get("/schemas/workflow.json", summary="JSON Schema of a workflow")
def workflow_schema() -> Response:
    """Return the schema every submitted workflow is checked against."""
    return Response(documents.schema_bytes("workflow"), media_type="application/schema+json")


@router.get("/schemas/airflow.json", summary="JSON Schema of the block airflow in a dropped file")
def airflow_schema() -> Response:
    """Return the schema of what a file in the folder of documents says beside its workflow."""
    return Response(documents.schema_bytes("airflow"), media_type="application/schema+json")


@router.get("/schemas/openapi.json", summary="This API, as OpenAPI")
def openapi_schema() -> JSONResponse:
    """Return the description of the public routes as it was released."""
    return JSONResponse(_openapi())


@functools.cache
def _openapi() -> Any:
    return json.loads(resources.files("airflow_prominence.api").joinpath("openapi.json").read_text(encoding="utf-8"))
