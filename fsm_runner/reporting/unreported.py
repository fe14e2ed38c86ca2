"""Why the coordinator has no record of how a run or session ended here."""

from fsm_runner.coordinator_client.errors import Refused

NOT_FOUND = 404


def why_unreported(outcome: str | None, fault: Exception) -> str:
    """For the log line of its end. `outcome`: how it ended here; None where the coordinator has decided that itself."""
    if outcome is None:
        return str(fault)
    if isinstance(fault, Refused) and fault.status == NOT_FOUND:
        return f"it ended as {outcome} here, but the coordinator does not know it any more: {fault}"
    return f"it ended as {outcome} here, but the coordinator has not taken that: {fault}"
