"""The program of the watchdog process: waits for the end of its standard input, then kills the runner's leftovers.

    python -I -S -E watchdog_program.py NAME=VALUE TAG_PREFIX

The arguments are the runner's environment tag and the prefix of its rlimit tags. A bare interpreter runs this file, so
that it takes little memory; it imports only modules of this package that need nothing but the standard library.
"""

import os
import signal
import sys

STUCK_S = 30.0
"""The watchdog gives up when the same processes remain for this time after SIGKILL."""


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    # Imported before the wait: the files may be gone when the runner ends.
    from fsm_runner.process.leftovers.leftover_killer import LeftoverKiller

    killer = LeftoverKiller({os.fsencode(sys.argv[1])}, {int(sys.argv[2])})
    while os.read(0, 1024):
        pass
    killer.kill(STUCK_S)


if __name__ == "__main__":
    sys.path.append(__file__.removesuffix("/fsm_runner/process/leftovers/watchdog_program.py"))
    main()
