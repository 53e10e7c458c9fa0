"""The REST API: one table of operations, and a thin adapter for each engine."""
