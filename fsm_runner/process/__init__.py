"""Child processes: how they start, what they may use, and how every process that they leave behind is ended.

- `child`: `Child` starts a command, captures its output and returns its `Exit` when nothing of it is left.
- `tree`: the descendants of one child, and how they are recognized, measured (`tree.usage`) and killed.
- `leftovers`: processes that an earlier, killed process of the runner has left behind.
- `limits`: what a run may use, and how the program divides its own file descriptors.
- `user`: the user that executors run as. `init` and `inherited`: the start of this program itself.

**Tags.** Each child and its descendants carry three tags (`tree.process_tree`, `tree.rlimit_tag`). The *runner tag* in
the environment names the process of the runner that started them, the *tree tag* in the environment names the child's
tree, and the *rlimit tag* is an unusual value of a resource limit, which remains if a process clears its environment.

**Descendants of this run.** A child leads a session and a process group. When it exits, `Child` kills its group. The
program is the *subreaper* of its descendants (`tree.subreaper`), so a process whose parent has ended becomes the
program's child; `tree.descendant_killer` finds those that belong to the child by their tags or their session, and kills
them with everything below them. The run ends when none is left. Without a subreaper (macOS), only the group is killed.

**Leftovers of an earlier process.** The *watchdog* (`leftovers.watchdog`) is a small process that waits for the end of
the runner, and then kills everything with the tags of that runner process. If the watchdog was killed too, the next
start of the runner does so (`leftovers.startup_cleanup`), with the runner tags that its journal lists.

**Killing.** All of them use `tree.freeze_and_kill`: it stops processes until a search finds no further one, so that
nothing can fork, and only then kills. `tree.procfs` reads the process table and signals exactly the process that it
read; `tree.psutil_backend` replaces it on systems without Linux' /proc or pidfds.
"""
