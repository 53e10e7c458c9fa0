"""Why a score is what it is, and what would change it: contributions, effects, recourse, curves."""
