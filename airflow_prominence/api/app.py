"""The two apps the plugin mounts: the public one at every configured prefix, the internal one at its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from airflow_prominence.api import errors, housekeeper, mailer, placer, settler
from airflow_prominence.api.auth import BearerAuth, caller_of, service_of
from airflow_prominence.api.hub import hub
from airflow_prominence.api.routes import (
    accounting,
    data,
    driver,
    jobs,
    kv,
    live,
    login,
    nodes,
    objects,
    public,
    resources,
    workflows,
)

API_VERSION = "1"


def public_app() -> FastAPI:
    """Return the app of users, the client and jobs."""
    app = _bare("PROMINENCE")
    app.add_middleware(
        BearerAuth, public=public.PUBLIC, public_posts=login.PUBLIC_POSTS, resolve=caller_of, signed=objects.SIGNED
    )
    for module in (
        jobs,
        workflows,
        live,
        kv,
        accounting,
        data,
        login,
        objects,
        public,
        resources,
    ):
        app.include_router(module.router)
    errors.install(app)
    return app


def internal_app() -> FastAPI:
    """Return the app of triggers, nodes and runners; its lifespan carries hub, placer and housekeeper."""
    app = _bare("PROMINENCE, internal", lifespan)
    app.add_middleware(BearerAuth, public=(), public_posts=(), resolve=service_of)
    for router in (driver.router, nodes.router):
        app.include_router(router)
    errors.install(app)
    return app


def _bare(title: str, life: Any = None) -> FastAPI:
    # No route of FastAPI's own: they would be public, and the schema is served under /schemas.
    return FastAPI(title=title, version=API_VERSION, docs_url=None, redoc_url=None, openapi_url=None, lifespan=life)


@contextlib.asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Listen to PostgreSQL, give out capacity, settle workflows, keep house and send letters while the server is up."""
    hub.start()
    loop = asyncio.get_running_loop()
    helpers = [loop.create_task(work()) for work in (placer.place, settler.settle, housekeeper.keep, mailer.keep)]
    try:
        yield
    finally:
        hub.stop()
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)


def openapi() -> dict[str, Any]:
    """Return the OpenAPI description of the public routes, as committed in ``openapi.json``."""
    app = public_app()
    return get_openapi(title=app.title, version=app.version, routes=app.routes)
