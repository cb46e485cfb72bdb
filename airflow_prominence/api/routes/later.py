"""Routes of the contract that are not built yet: they say so, since the client takes a 404 for a wrong URL."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

router = APIRouter(include_in_schema=False)

NOT_YET: Final = {
    "/workflows": "running a workflow",
    "/workflows/{rest:path}": "running a workflow",
}
"""Path to what it would be about; an entry goes when its feature comes."""


async def not_yet(request: Request) -> JSONResponse:
    """Say that a route of the contract is not built yet."""
    about = NOT_YET[request.scope["route"].path]
    return JSONResponse({"error": f"{about[0].upper()}{about[1:]} is not supported yet"}, status_code=400)


for _path in NOT_YET:
    router.add_api_route(_path, not_yet, methods=["GET", "POST", "PUT", "DELETE"])
