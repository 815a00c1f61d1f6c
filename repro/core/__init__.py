"""Files, configs, hashes and messages: what every package uses. Knows nothing of video or models."""

__version__ = "0.2.0.dev0"
"""The program's version. Defined here because every layer writes it into its files, and `repro` itself names modules of all layers."""
