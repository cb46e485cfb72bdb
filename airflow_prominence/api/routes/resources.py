"""``/resources``: what the sites have and what of it is free (``prominence.md`` 1.5)."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse

from airflow_prominence.api.auth import CallerDep
from airflow_prominence.api.database import transact
from airflow_prominence.store import capacity

router = APIRouter(tags=["resources"])


@router.get("/resources", summary="Capacity of the sites")
def list_resources(caller: CallerDep) -> JSONResponse:  # noqa: ARG001 - whoever may ask may see it
    """Return each site's cores and memory (GB), all and free, the site with most free cores first."""
    sites = sorted(transact(capacity.by_site), key=lambda site: (-site.free_cpus, site.name))
    return JSONResponse(
        {
            "existing": [
                {
                    "site": site.name,
                    "capacity": {"cpus": site.cpus, "memory": site.memory_mb // 1024},
                    "free": {"cpus": site.free_cpus, "memory": site.free_memory_mb // 1024},
                }
                for site in sites
            ]
        }
    )
