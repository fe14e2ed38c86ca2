"""The crash harness: real runners that are killed at chosen points of their work and then restarted."""
