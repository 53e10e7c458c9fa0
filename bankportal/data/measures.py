"""How good a score is: plain measures on labels 1 and 0. NumPy only."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def middle_ranks(score: Floats) -> Floats:
    """Return each score's rank from 1, (rows,); equal scores share the middle of their ranks."""
    place, count = np.unique(score, return_inverse=True, return_counts=True)[1:]
    ranks: Floats = (np.cumsum(count) - (count - 1) / 2)[place]
    return ranks


def area_under_curve(score: Floats, label: Floats) -> float:
    """Return the ROC AUC of a score, both (rows,): how often a 1 scores above a 0, ties counting half.

    NaN where all labels are equal.
    """
    ones = label == 1
    positive, negative = int(ones.sum()), int((~ones).sum())
    if not positive or not negative:
        return float("nan")
    wins = middle_ranks(score)[ones].sum() - positive * (positive + 1) / 2
    return float(wins / (positive * negative))


def brier(score: Floats, label: Floats) -> float:
    """Return the mean squared distance of score and label, both (rows,)."""
    return float(np.mean((score - label) ** 2))
