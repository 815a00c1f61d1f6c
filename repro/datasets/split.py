"""Clips and splits: which clips, with which labels."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

# Lower case and no dots: the name is also part of file names.
_NAME = re.compile(r"([a-z0-9_]+)/([a-z0-9_]+)")


@dataclass(frozen=True, slots=True, order=True)
class SplitName:
    """The name of a split, written `<dataset>/<split>` as in `ucf101/train`.

    As a pydantic field it is read from that text and dumped as it, so that records, dumps and content keys hold a string.
    """

    dataset: str
    split: str

    @classmethod
    def parse(cls, text: str) -> "SplitName":
        """Parse `<dataset>/<split>`.

        Raises:
            ValueError: not of the form <dataset>/<split>.
        """
        match = _NAME.fullmatch(text)
        if match is None:
            raise ValueError(f"'{text}': expected <dataset>/<split>, such as ucf101/train")
        return cls(match[1], match[2])

    def __str__(self) -> str:
        return f"{self.dataset}/{self.split}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        # Text from YAML or JSON is parsed; an instance passes through; both are dumped as text.
        from_text = core_schema.no_info_after_validator_function(cls.parse, core_schema.str_schema())
        return core_schema.json_or_python_schema(
            json_schema=from_text,
            python_schema=core_schema.union_schema([core_schema.is_instance_schema(cls), from_text]),
            serialization=core_schema.to_string_ser_schema(when_used="always"),
        )


@dataclass(frozen=True, slots=True)
class Clip:
    id: str
    """The publisher's name of the clip, unique in its dataset."""
    path: Path
    target: tuple[int, ...]
    """Label ids: one for single-label datasets, any number for multi-label ones."""
    group: str = ""
    """Clips that are not independent share a group, for example because they are cut from the same source video or show
    the same person. A held-out split must not divide a group. Each adapter documents its groups."""
    listed: str = ""
    """Where the clip is listed: file (relative to the dataset's folder) and row."""


@dataclass(frozen=True, slots=True)
class Split:
    name: SplitName
    classes: tuple[str, ...]
    """A class's index is its label id."""
    clips: tuple[Clip, ...]

    @property
    def positives(self) -> tuple[int, ...]:
        """Number of clips per class, by label id. The publishers' mAP leaves out classes without clips."""
        counts = [0] * len(self.classes)
        for clip in self.clips:
            for label in clip.target:
                counts[label] += 1
        return tuple(counts)


def name_first_clips(clips: Sequence[str]) -> str:
    """Name up to three clips, for an error message of one line."""
    return ", ".join(clips[:3]) + (f" and {len(clips) - 3} more" if len(clips) > 3 else "")
