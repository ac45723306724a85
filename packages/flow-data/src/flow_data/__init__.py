"""Toy densities, functions and images for normalising flows."""
