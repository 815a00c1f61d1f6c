"""One store, base and image for all tests of the image. REPRO_TEST_IMAGES keeps them in a folder of yours."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders.image_engine import Engine, missing_tools


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    missing = missing_tools()
    if missing:
        pytest.skip(f"the image cannot be built here: no {', '.join(missing)} (scripts/image/tools.sh installs them)")
    kept = os.environ.get("REPRO_TEST_IMAGES")
    # Not among pytest's temporary folders: it would remove through the mounts of a run that was killed.
    made = Engine(Path(kept) if kept else Path(tempfile.mkdtemp(prefix="actiondiff-test-images-")))
    try:
        made.make_base()
        yield made
    except RuntimeError as error:
        pytest.skip(f"no base image can be made here: {' '.join(str(error).split())[:300]}")
    finally:
        if not kept:
            made.remove()


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """The cpu target."""
    tag = "localhost/actiondiff:cpu"
    engine.build(tag, "cpu")
    return tag
