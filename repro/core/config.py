"""YAML configs as models that reject unknown keys, and the folders that are shipped with the code."""

import copy
import json
import os
import re
import shlex
from collections.abc import Hashable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from repro.core.errors import UsageError, find_nearest, state_reason
from repro.core.reading import MAX_DEPTH, read_text

MAX_YAML_VALUES = 100_000
"""Values that a config may have, with aliases expanded. The largest shipped config has a few hundred."""
MOST_YAML = 1 << 24
"""Bytes of a config."""
Positive = Annotated[int, Field(ge=1)]
_LONG_NUMBER = re.compile(r"[-+0-9][0-9a-fA-Fx_:.]{200,}")


@cache
def shipped_folder(name: str) -> Path:
    """Return a folder that is shipped with the code: inside the package in an installed wheel, alongside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def configs_folder() -> Path:
    """Return configs/: rows, backbones, datasets, assets."""
    return shipped_folder("configs")


def config_names(folder: str) -> list[str]:
    """Return the names of the configs in a folder of configs/, sorted."""
    with os.scandir(configs_folder() / folder) as entries:
        return sorted(entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml"))


def expected_folder() -> Path:
    """Return expected/: the published results with their margins, and the smoke job's golden values."""
    return shipped_folder("expected")


def is_config_path(name: str) -> bool:
    """Return True if a command's argument is the path of a user's own config rather than the name of a shipped one."""
    return name.lower().endswith((".yaml", ".yml"))


class Config(BaseModel):
    """Base of every config: unknown keys and values of another type are errors; instances are immutable."""

    # Strict, so that `epochs: true` or `"15"` is an error rather than silently 1 or 15. A validator is built when it is first used:
    # most commands read few of the many models.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)


class NamedConfig(Config):
    """A config that carries its name: the name of its file without `.yaml`.

    The name is not a key of the file and is excluded from every dump, so that no content key depends on it.
    """

    name: Annotated[str, Field(exclude=True)]


ConfigT = TypeVar("ConfigT", bound=Config)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # chosen at run time
    """Safe YAML in which a duplicate key is an error: plain YAML silently keeps the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"duplicate key '{key_node.value}'", problem_mark=key_node.start_mark
                )
            seen.add(key_node.value)
        return dict(super().construct_mapping(node, deep=deep))


def _load_yaml(text: str) -> Any:
    """Parse a YAML text whose depth and number of values are bounded.

    Raises:
        yaml.YAMLError, ValueError, TypeError, ArithmeticError, RecursionError: not YAML, a value that cannot be converted, or beyond the bounds.
    """
    _check_yaml_bounds(text)
    return yaml.load(text, Loader=_Loader)  # noqa: S506  # a subclass of SafeLoader


@lru_cache(maxsize=256)
def _load_yaml_once(text: str) -> Any:
    """As `_load_yaml`, and remember the value for the next call with the same text. It must not be changed."""
    return _load_yaml(text)


def _check_yaml_bounds(text: str) -> None:
    """Check depth and number of values from the parser's events, before anything is built.

    A few lines of aliases of aliases otherwise become billions of values, and deep nesting ends the process.
    """
    sizes: dict[str, int] = {}  # values below each anchor
    opened: list[tuple[str | None, int]] = []  # anchor and number of earlier values of each collection being read
    count = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            count += sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            # YAML reads 1:30 as 90, in a time that grows with the square of the length.
            if event.implicit[0] and _LONG_NUMBER.fullmatch(event.value):
                raise yaml.YAMLError(f"a number of {len(event.value)} characters")
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            if anchor:
                sizes[anchor] = count - before
        if len(opened) > MAX_DEPTH:
            raise yaml.YAMLError(f"nested deeper than {MAX_DEPTH} levels")
        if count > MAX_YAML_VALUES:
            raise yaml.YAMLError(f"more than {MAX_YAML_VALUES} values, aliases included")


def load_config(model: type[ConfigT], path: Path, changes: Mapping[str, str] | None = None) -> ConfigT:
    """Read a YAML file as `model`.

    If the file says `extends: NAME`, the keys it does not have are taken from NAME.yaml in the same folder.

    Args:
        model: The class to read it as.
        path: The YAML file.
        changes: Values to replace, as YAML text by dotted key, for example {"frames.size": "[64, 128]"}.

    Raises:
        UsageError: the file is missing or not YAML; an unknown key; a value of another type or out of range.
    """
    raw = _read_extended(path)
    if changes:
        # What is remembered of the file must not change.
        raw = copy.deepcopy(raw)
    for key, text in (changes or {}).items():
        _change_value(raw, key, text)
    if issubclass(model, NamedConfig):
        if "name" in raw:
            raise UsageError(f"{path}: unknown key 'name': a config is named by its file")
        raw["name"] = path.stem
    return validate_config(model, raw, str(path))


def validate_config(model: type[ConfigT], raw: Mapping[str, Any], where: str) -> ConfigT:
    """Validate `raw` as `model`. `where` names its source in error messages.

    Raises:
        UsageError: an unknown key, a value of another type or out of range.
    """
    try:
        # Through JSON: strict models accept a list for a tuple only there, and YAML knows no tuples.
        return model.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        raise UsageError(f"{where}: {_describe_problems(error, model)}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{where}: YAML reads a value as something JSON cannot represent ({error}): quote it"
        ) from error


def _read_extended(path: Path, extending: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read `path` on top of the config it extends."""
    raw = _read_yaml(path)
    if "extends" not in raw:
        return raw
    base = path.parent / f"{raw.pop('extends')}.yaml"
    if base in (*extending, path):
        raise UsageError(f"{path}: extends {base.stem}, which extends it")
    # Top-level keys are replaced, not merged: a checkpoint with keys of two configs would describe no real file.
    return _read_extended(base, (*extending, path)) | raw


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        # Remembered: judging a grid's records reads the same few configs hundreds of times.
        raw = _load_yaml_once(read_text(path, most=MOST_YAML))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file: expected a config in YAML") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{path}: cannot be read as text ({reason})") from error
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{path}{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not valid YAML: {state_reason(error, most=None)}") from error
    except (
        ValueError,
        TypeError,
        ArithmeticError,
        RecursionError,
    ) as error:  # a date such as 2020-13-45, a list as a key
        raise UsageError(f"{path}: a value that YAML cannot convert: {state_reason(error, most=None)}") from error
    if not isinstance(raw, dict):
        raise UsageError(f"{path}: expected 'key: value' lines, found {type(raw).__name__}")
    # Callers add and remove keys of their own; what is below those is remembered, and must not be changed.
    return {str(key): value for key, value in raw.items()}


def _change_value(raw: dict[str, Any], key: str, text: str) -> None:
    """Set the dotted `key` of `raw` to the YAML value `text` (--set KEY=VALUE)."""
    try:
        value = _load_yaml(text)
    except (yaml.YAMLError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise UsageError(f"--set {key}={text}: the value is not valid YAML") from error
    *sections, last = key.split(".")
    section_values = raw
    for section in sections:
        section_values = section_values.setdefault(section, {})
        if not isinstance(section_values, dict):
            raise UsageError(f"--set {key}={text}: '{section}' is a value and has no keys")
    section_values[last] = value


def fill_path(command: str, path: Path) -> str:
    """Replace {path} in a config's command by `path`, quoted for a shell."""
    return command.replace("{path}", shlex.quote(str(path)))


def _describe_problems(error: ValidationError, model: type[Config]) -> str:
    """Describe the first problem, and say how many more there are."""
    # A misspelt key is reported both as unknown and as missing; "unknown" with a suggestion is the helpful one.
    problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"]) or "the config"
    value = first.get("input")
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        text = f"unknown key '{where}'{find_nearest(key, sorted(_all_keys(model)))}"
    elif first["type"] == "missing":
        text = f"key '{where}' is missing"
    else:
        problem = state_reason(first["msg"], 400).removeprefix("Value error, ")
        problem = problem[0].lower() + problem[1:]
        # A rule about several keys names them itself; printing the complete section after it would hide that.
        text = problem if isinstance(value, dict) else f"{where}: {json.dumps(value)[:80]}: {problem}"
        if first["type"] == "float_type" and isinstance(value, str):
            text += " (YAML reads 3e-5 as text: write 3.0e-5)"
    more = len(problems) - 1
    return text + (f" (and {more} more)" if more else "")


def _all_keys(model: type[BaseModel]) -> set[str]:
    """Return the key names of `model` and of all models nested in it, for 'did you mean'."""
    keys: set[str] = set()
    queue, seen = [model], set()
    while queue:
        current = queue.pop()
        if current in seen:
            continue
        seen.add(current)
        for name, field in current.model_fields.items():
            keys.add(name)
            queue.extend(_nested_models(field.annotation))
    return keys


def _nested_models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _nested_models(part)]
