"""Who is asking: every request of our apps passes here first, and fails closed (design, decision 6).

Airflow puts no login before a plugin's app, and its own dependency answers "Anonymous" in some configurations; so a
middleware, not a dependency somebody can forget, asks for a bearer on every path but those public by name.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from sqlalchemy.orm import Session
from starlette._utils import get_route_path
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from airflow_prominence import _compat, tokens
from airflow_prominence.api import oidc
from airflow_prominence.api.database import DatabaseGone, transact_async
from airflow_prominence.api.errors import ApiError, database_gone, error_response
from airflow_prominence.api.settings import settings
from airflow_prominence.dags.names import JOB_DAG_ID
from airflow_prominence.store import queries, usertokens

log = logging.getLogger(__name__)

REFUSED = "Authentication failure"
_REVOKED = "the token was revoked or never issued"
_ALL_REVOKED = "all tokens of the job's owner were revoked"

#: What a job's token opens (design, "Who does what"): a route that is not here does not know jobs.
_OPEN_TO_JOBS: Final = (
    ("POST", re.compile(r"/jobs")),
    ("POST", re.compile(r"/workflows")),
    ("GET", re.compile(r"/jobs(/[^/]+)?")),
    ("GET", re.compile(r"/kv(/.*)?", re.DOTALL)),
    ("POST", re.compile(r"/kv/.*", re.DOTALL)),
    ("DELETE", re.compile(r"/kv/.*", re.DOTALL)),
    ("POST", re.compile(r"/data/output")),
)
#: What is left of it when all of its owner's tokens were revoked: the job's node stores outputs with it.
_STORES_OUTPUTS: Final = ("POST", "/data/output")
NOT_FOR_JOBS = (
    "A job's token is for submitting jobs and workflows, for describing its own, for /kv and for /data/output"
)

#: What a URL can be signed for, where the path says that it is.
_SIGNED_METHODS = frozenset({"GET", "HEAD", "PUT"})


@dataclass(frozen=True)
class Caller:
    """Who is asking: a person (or a script with a person's token), or one job of a person's (``only_job``).

    ``jti`` names the token where it is one of ours; ``only_outputs`` says that the job's token has no other power left.
    """

    name: str
    groups: tuple[str, ...] = ()
    email: str | None = None
    only_job: int | None = None
    only_outputs: bool = False
    jti: str | None = None
    airflow_user: Any = field(default=None, repr=False, compare=False)

    def require_act(self) -> None:
        """Refuse Airflow users whose role does not let them start runs."""
        if self.airflow_user is None:
            return
        from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails

        allowed = _compat.get_auth_manager().is_authorized_dag(
            method="POST",
            access_entity=DagAccessEntity.RUN,
            details=DagDetails(id=JOB_DAG_ID),
            user=self.airflow_user,
        )
        if not allowed:
            raise ApiError(403, "Your role in Airflow does not allow you to run jobs")


@dataclass(frozen=True)
class Service:
    """A driver (trigger), a node's service or a job's runner, by the claims of its token."""

    audience: str
    claims: dict[str, Any]


def check_again(session: Session, caller: Caller) -> None:
    """Refuse a caller whose token was revoked since the request came, for what would outlive it; first of all.

    From here to the end of the transaction nobody can revoke all of the user's tokens.
    """
    usertokens.hold(session, caller.name)
    if caller.jti is not None and not usertokens.is_valid(session, caller.jti, caller.name):
        raise ApiError(401, f"{REFUSED}: {_REVOKED}")
    if caller.only_job is not None and usertokens.may_only_store(session, caller.name, caller.only_job):
        raise ApiError(401, f"{REFUSED}: {_ALL_REVOKED}")


class NotAuthenticated(Exception):
    """No valid bearer; the text says why, and never holds the bearer."""


async def caller_of(bearer: str) -> Caller:
    """Return the caller a bearer stands for: our user token, a job's token, or an Airflow JWT."""
    audience = tokens.unverified_audience(bearer)
    if audience == tokens.USER:
        return await _our_user(bearer)
    if audience == tokens.JOB:
        return await _a_job(bearer)
    if audience in tokens.AUDIENCES:
        raise NotAuthenticated("this token is not for users")
    if oidc.is_ours(bearer):
        return await _oidc_user(bearer)
    return await _airflow_user(bearer)


async def _a_job(bearer: str) -> Caller:
    claims = _checked(bearer, tokens.JOB)
    if "attempt" not in claims:
        raise NotAuthenticated("the token names no attempt")
    job_id, attempt = int(claims["job"]), int(claims["attempt"])
    owner = await transact_async(lambda session: queries.owner_at_attempt(session, job_id, attempt))
    if owner is None:
        raise NotAuthenticated("the job's attempt is over")
    return Caller(owner.name, owner.groups, owner.email, only_job=job_id, only_outputs=owner.tokens_revoked)


async def _oidc_user(bearer: str) -> Caller:
    try:
        user = await run_in_threadpool(oidc.check, bearer)
    except oidc.OidcRefused as refused:
        raise NotAuthenticated(str(refused)) from None
    except oidc.IssuerUnreachable as unreachable:
        log.warning("the OIDC issuer cannot be reached: %s", unreachable)
        raise NotAuthenticated("Unable to connect to OIDC server") from None
    return Caller(user.name, user.groups, user.email)


async def _our_user(bearer: str) -> Caller:
    claims = _checked(bearer, tokens.USER)
    jti, owner = str(claims.get("jti", "")), str(claims.get("sub", ""))
    if not owner or not await transact_async(lambda session: usertokens.is_valid(session, jti, owner)):
        raise NotAuthenticated(_REVOKED)
    return Caller(owner, tuple(claims.get("groups", ())), claims.get("email"), jti=jti)


async def _airflow_user(bearer: str) -> Caller:
    try:
        user = await _compat.resolve_user_from_token(bearer)
    except HTTPException as refused:
        raise NotAuthenticated(str(refused.detail)) from None
    name = user.get_name()
    if not name:
        raise NotAuthenticated("the token names no user")
    return Caller(name, airflow_user=user)


def _checked(bearer: str, audience: str) -> dict[str, Any]:
    try:
        return tokens.check(bearer, audience, settings().secret)
    except tokens.TokenRefused as refused:
        raise NotAuthenticated(str(refused)) from None


class BearerAuth:
    """ASGI middleware: no request reaches a route without a valid bearer, but for the paths public by name.

    What is below ``signed`` brings its signature in the URL, which its routes look at.
    """

    def __init__(
        self,
        app: ASGIApp,
        public: Collection[str],
        public_posts: Collection[str],
        resolve: Callable[[str], Any],
        signed: str | None = None,
    ) -> None:
        self.app = app
        self.signed = signed
        self.public = {"GET": frozenset(public), "HEAD": frozenset(public), "POST": frozenset(public_posts)}
        self.resolve = resolve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through with ``scope["state"]["caller"]`` set, or answer 401."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await error_response(401, REFUSED)(scope, receive, send)
            return
        if self._needs_no_bearer(scope["method"], get_route_path(scope)):
            await self.app(scope, receive, send)
            return
        try:
            caller = await self.resolve(_bearer(scope))
        except NotAuthenticated as refused:
            await error_response(401, f"{REFUSED}: {refused}")(scope, receive, send)
            return
        except DatabaseGone as gone:
            await database_gone(gone)(scope, receive, send)
            return
        if isinstance(caller, Caller) and caller.only_job is not None and not _is_open_to_jobs(scope):
            await error_response(403, NOT_FOR_JOBS)(scope, receive, send)
            return
        if isinstance(caller, Caller) and caller.only_outputs and not _stores_outputs(scope):
            await error_response(401, f"{REFUSED}: {_ALL_REVOKED}")(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        await self.app(scope, receive, send)

    def _needs_no_bearer(self, method: str, path: str) -> bool:
        if self.signed is not None and method in _SIGNED_METHODS and path.startswith(self.signed):
            return True
        return path in self.public.get(method, ())


def _is_open_to_jobs(scope: Scope) -> bool:
    path = get_route_path(scope)
    return any(method == scope["method"] and pattern.fullmatch(path) for method, pattern in _OPEN_TO_JOBS)


def _stores_outputs(scope: Scope) -> bool:
    return (scope["method"], get_route_path(scope)) == _STORES_OUTPUTS


def _bearer(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name.lower() == b"authorization":
            scheme, _, credentials = value.decode("latin-1").partition(" ")
            if scheme.lower() != "bearer" or not credentials.strip():
                raise NotAuthenticated("the Authorization header must be 'Bearer <token>'")
            return str(credentials.strip())
    raise NotAuthenticated("no token was given")


async def service_of(bearer: str) -> Service:
    """Return which of our own services a bearer stands for."""
    audience = tokens.unverified_audience(bearer)
    if audience not in (tokens.DRIVER, tokens.NODE, tokens.JOB):
        raise NotAuthenticated("this token is not for internal routes")
    return Service(audience, _checked(bearer, audience))


def the_caller(request: Request) -> Caller:
    """Return who is asking; for public routes of users."""
    caller = request.state.caller
    if not isinstance(caller, Caller):
        raise ApiError(401, REFUSED)
    return caller


def _service(request: Request, audience: str) -> Service:
    service = request.state.caller
    if not isinstance(service, Service) or service.audience != audience:
        raise ApiError(403, "This token is not for this route")
    return service


def the_driver(request: Request) -> Service:
    """Return the driver that asks, or refuse."""
    return _service(request, tokens.DRIVER)


def the_node(request: Request) -> Service:
    """Return the node's service that asks, or refuse."""
    return _service(request, tokens.NODE)


def the_runner(request: Request) -> Service:
    """Return the job's runner that asks, or refuse; its token is good for its own lease only."""
    service = _service(request, tokens.JOB)
    # The token that a job's tasks get names none.
    lease = service.claims.get("lease")
    if lease is None or lease != request.path_params.get("lease"):
        raise ApiError(403, "This token is not for this lease")
    return service


CallerDep = Annotated[Caller, Depends(the_caller)]
NodeDep = Annotated[Service, Depends(the_node)]
