"""Frozen backbones: one config, one module or package each; extractor.py says what all of them offer."""
