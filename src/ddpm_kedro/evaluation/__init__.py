"""How good a model and its samples are."""
