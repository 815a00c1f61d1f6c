"""Where the files lie that the project ships beside its code."""

from pathlib import Path


def _folder(name: str) -> Path:
    package = Path(__file__).resolve().parent.parent
    inside = package / name  # an installed wheel
    return inside if inside.is_dir() else package.parent / name  # a checkout


def configs() -> Path:
    """configs/: rows, backbones, datasets."""
    return _folder("configs")


def expected() -> Path:
    """expected/: the published results with their margins, and the smoke job's golden values."""
    return _folder("expected")
