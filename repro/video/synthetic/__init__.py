"""Figures and scenes rendered as video."""
