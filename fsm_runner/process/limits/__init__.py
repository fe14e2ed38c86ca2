"""The limits of runs: `limits` declares them, `launch_policy` sets the kernel's, `limiter` measures the others."""
