"""The calls about approvals of workflows: protocol.md, section 1.3. They always need a token."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fsm_runner.coordinator_server.errors import Forbidden
from fsm_runner.coordinator_server.http.guards import CALLER
from fsm_runner.coordinator_server.http.requests import body_as, coordinator_of
from fsm_runner.http_server.responses import json_response
from fsm_runner.protocol.approvals import DEADLINE, ApprovalAnswer

NEEDS_TOKENS = (
    "Approvals over HTTP need a token, and this coordinator requires none, so an agent could approve itself: start the "
    "coordinator with AUTH_ENABLED=true, AUTH0_DOMAIN and AUTH0_AUDIENCE, or use `fsm-runner approvals` and "
    "`fsm-runner approve` on the machine of the runner"
)


async def list_approvals(request: Request) -> Response:
    _caller(request)
    return json_response(await coordinator_of(request).approvals.pending())


async def decide(request: Request) -> Response:
    by = _caller(request)
    answer = await body_as(request, ApprovalAnswer)
    response = await coordinator_of(request).approvals.decide(request.path_params["run_id"], answer, by)
    return json_response(response, 200 if response.confirmed else 202)


def _caller(request: Request) -> str:
    """Return the subject of the request's token. Raises `Forbidden`."""
    caller = getattr(request.state, CALLER, None)
    if caller is None:
        raise Forbidden(NEEDS_TOKENS)
    return f"subject {caller}" if caller == DEADLINE else str(caller)


ROUTES = [
    Route("/approvals", list_approvals),
    Route("/runs/{run_id}/approval", decide, methods=["POST"]),
]
