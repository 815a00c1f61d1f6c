"""Makes the results table of ActionDiff (arXiv 2509.08908) repeatable."""

__version__ = "0.1.0"
