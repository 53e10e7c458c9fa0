"""Batches, in the order in which one lives: uploaded, checked, scored in chunks, joined, replayed."""
