"""How many examples are tried: few and the same ones in `make test`; HYPOTHESIS_PROFILE=long tries others each time."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, configuration, settings

# Nothing is remembered between runs: what was found is in tests/properties/corpus or in an `@example`.
COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("short", max_examples=20, derandomize=True, **COMMON)
settings.register_profile("long", max_examples=1000, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))
configuration.set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "hypothesis")


def pytest_configure(config: pytest.Config) -> None:
    # derandomize takes precedence over --hypothesis-seed.
    if config.getoption("hypothesis_seed", None) is not None:
        settings.register_profile("seeded", settings.default, derandomize=False)
        settings.load_profile("seeded")


@pytest.fixture(autouse=True, scope="module")
def unsynced() -> Iterator[None]:
    """Thousands of small files, of which none has to survive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
