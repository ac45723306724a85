"""Training, evaluation and sampling of fixed-point flows."""
