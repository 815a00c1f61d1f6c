"""Measured numbers against published ones."""
