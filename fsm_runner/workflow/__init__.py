"""Workflows: the format of the file, its check, and the interpreter. Knows nothing of runs, journals or processes.

`definition` has the structs of a file, `file` reads it, `expansion` makes a machine of it, and `check` finds its
defects. `interpreter` holds the state and the values of one workflow that is executed.
"""
