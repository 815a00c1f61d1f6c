"""Commands that judge and show: a module each."""
