"""What the end of an executor's process means, whichever executor it was."""

from fsm_runner.process.child import Exit


def failure_text(ended: Exit) -> str:
    """stderr, else stdout, else the exit code (section 2)."""
    said = ended.stderr.text().strip() or ended.stdout.text().strip()
    return said or f"the command ended with exit code {ended.code}"
