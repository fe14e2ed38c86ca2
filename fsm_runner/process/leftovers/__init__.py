"""Leftovers: processes that a runner had started when it was killed.

`watchdog` starts a process that outlives the runner and kills them (`watchdog_program`). If the watchdog was killed
too, the next start of the runner kills them (`startup_cleanup`). Both use `leftover_killer`.
"""
