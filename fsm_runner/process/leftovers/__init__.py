"""Leftovers: processes that a runner had started when it was killed."""
