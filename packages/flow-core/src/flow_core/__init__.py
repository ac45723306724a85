"""Invertible layers, models and distributions defined by fixed points."""
