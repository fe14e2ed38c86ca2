"""What the end of an executor's process means, whichever executor it was."""

from fsm_runner.process.child import Exit


def failure_text(ended: Exit, otherwise: str | None = None) -> str:
    """The limit that it did not keep, else stderr, else stdout, else the exit code (section 2), which `otherwise` may
    tell in other words."""
    if ended.exceeded is not None:
        return ended.exceeded
    said = ended.stderr.text().strip() or ended.stdout.text().strip()
    return said or otherwise or f"the command ended with exit code {ended.code}"
