"""Batch uploads: receiving, checking, scoring in chunks, joining the parts, replaying."""
