"""Limits of runs: `limits` declares them, `launch_policy` sets those of the kernel, `limiter` measures the others.

`open_files` divides the program's own file descriptors.
"""
