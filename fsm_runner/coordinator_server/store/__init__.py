"""The coordinator's database: sessions, runs and events. It knows no HTTP, and raises the errors of `errors.py`."""
