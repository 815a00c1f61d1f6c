"""One laboratory for all trials of the short form."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from faults.stages import Lab, open_lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with ExitStack() as stack:
        yield open_lab(tmp_path_factory.mktemp("faults"), stack)
