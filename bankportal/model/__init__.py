"""The forest that scores: arrays, encoding, what training has seen, compiled loops."""
