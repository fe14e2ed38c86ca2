"""The metadata for the runner itself, in all cases (protocol.md, section 2.3)."""

from fsm_runner.conformance import assertions
from fsm_runner.conformance.case import CaseContext, case


@case(
    "metadata-form",
    "The metadata fields status_detail, usage and limit have their documented form.",
    needs_start=True,
)
async def metadata_form(context: CaseContext) -> str | None:
    if not context.shared.with_metadata:
        return "sends none of them"
    for process in context.shared.with_metadata:
        for each in process.record.runner_metadata():
            context.processes = [process]  # for the transcript
            assertions.all_accepted([each])
            assertions.valid_status(each.fields)
    return None


CASES = (metadata_form,)
"""These must be the last ones of the suite."""
