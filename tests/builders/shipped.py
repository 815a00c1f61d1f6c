"""Read configs and expected values from a copy in this process."""

from pathlib import Path

import pytest

from repro.core import config


def use_shipped(monkeypatch: pytest.MonkeyPatch, **folders: Path) -> None:
    """Read `configs=` or `expected=` from the given folder until the test ends; what is not given stays as shipped."""
    shipped = config.shipped_folder
    monkeypatch.setattr(config, "shipped_folder", lambda name: folders.get(name) or shipped(name))
