"""Weights that other libraries wrote, as ours."""
