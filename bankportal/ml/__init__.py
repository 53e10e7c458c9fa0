"""Data, training and the forest: simulate, read, check, train, evaluate; the registry and the arrays that score."""
