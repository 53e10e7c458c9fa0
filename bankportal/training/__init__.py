"""Growing and evaluating forests: the only room that knows scikit-learn and pandas."""
