"""Verbs about machines: a module each."""
