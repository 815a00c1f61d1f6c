"""Rows of the results table, the release's other experiments, and what each needs."""
