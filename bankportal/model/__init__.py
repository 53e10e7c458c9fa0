"""The forest as arrays, its encoding, the ranges seen in training, and the compiled scoring."""
