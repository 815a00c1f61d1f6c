"""A reporter whose lines and warnings a test can read."""

from repro.core.console import Reporter


class RecordingReporter(Reporter):
    """A reporter that remembers."""

    def __init__(self) -> None:
        super().__init__(to_stderr=True)
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)
