"""Figures and scenes rendered as video: figures.py bodies and actions; scenes.py who does what where, and the pictures of it."""
