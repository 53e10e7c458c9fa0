"""Explanations of a score: contributions, effects, recourse, curves."""
