"""When a runner ends by itself (docs/queue.md, "Ephemeral runners")."""

import msgspec


class ExitRule(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a runner claim no further run, and end when it holds none."""

    after_runs: int | None = None
    """End after this many runs; None: any number."""
    when_idle_s: float | None = None
    """End when there was no run for this time; None: never."""

    def reason(self, begun: int, idle_s: float) -> str:
        """Return why the runner ends; empty if it does not. `begun`: its number of runs so far."""
        if self.after_runs is not None and begun >= self.after_runs:
            return f"it has had {begun} run{'' if begun == 1 else 's'} (--exit-after-runs {self.after_runs})"
        if self.when_idle_s is not None and idle_s >= self.when_idle_s:
            return f"it has had no run for {idle_s:.0f} s (--exit-when-idle {self.when_idle_s:g})"
        return ""


NEVER = ExitRule()
