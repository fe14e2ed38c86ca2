"""The store in a SQLite database: one file, one connection, one thread."""
