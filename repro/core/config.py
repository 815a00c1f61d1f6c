"""Reading a YAML config into a model that rejects what it does not know."""

import difflib
import json
import shlex
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from repro.core.errors import UsageError


class Config(BaseModel):
    """Base of every config: unknown keys, and values of another type, are errors; values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class NamedConfig(Config):
    """A config that knows its name: that of its file without `.yaml`. The name is no key of the file, and never part of a
    dump, so that no content key depends on it."""

    name: Annotated[str, Field(exclude=True)]


ConfigT = TypeVar("ConfigT", bound=Config)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # chosen at run time
    """Safe YAML in which a key said twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key '{key_node.value}' stands twice", problem_mark=key_node.start_mark
                )
            seen.add(key_node.value)
        return dict(super().construct_mapping(node, deep=deep))


def load_config(model: type[ConfigT], path: Path, changes: Mapping[str, str] | None = None) -> ConfigT:
    """Read `path` as `model`. With `extends: NAME` in it, keys it does not have are those of NAME.yaml beside it; `changes` gives some of its values anew, in YAML, by dotted key (size: "[64, 128]").

    Raises:
        UsageError: not there, not YAML, an unknown key, a value of another type or out of range.
    """
    raw = _extended(path)
    for key, text in (changes or {}).items():
        _change(raw, key, text)
    if issubclass(model, NamedConfig):
        if "name" in raw:
            raise UsageError(f"{path}: unknown key 'name': a config is named by its file")
        raw["name"] = path.stem
    return validated(model, raw, str(path))


def validated(model: type[ConfigT], raw: Mapping[str, Any], where: str) -> ConfigT:
    """`raw` as `model`; `where` it was read, for the message.

    Raises:
        UsageError: an unknown key, a value of another type or out of range.
    """
    try:
        # Through JSON, where a list may stand for a tuple although the models are strict.
        return model.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        raise UsageError(f"{where}: {_first_problem(error, model)}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{where}: a value YAML reads as something JSON has no word for: {error}; quote it") from error


def _extended(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What `path` says, on top of what the config says that it extends. Keys are replaced whole: half of another checkpoint's
    is no checkpoint."""
    raw = _read(path)
    if "extends" not in raw:
        return raw
    base = path.parent / f"{raw.pop('extends')}.yaml"
    if base in (*above, path):
        raise UsageError(f"{path}: extends {base.stem}, which extends it")
    return _extended(base, (*above, path)) | raw


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506  # a subclass of SafeLoader
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such config") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as text ({error})") from error
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{path}{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"{path}: a value YAML cannot make sense of: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise UsageError(f"{path}: expected 'key: value' lines, found {type(raw).__name__}")
    return raw


def _change(raw: dict[str, Any], key: str, text: str) -> None:
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506  # a subclass of SafeLoader
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"--set {key}={text}: not a value YAML can read") from error
    *sections, last = key.split(".")
    place = raw
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise UsageError(f"--set {key}={text}: '{section}' has no keys below it")
    place[last] = value


def filled(command: str, path: Path) -> str:
    """A config's command with `path`, quoted for a shell, where it says {path}."""
    return command.replace("{path}", shlex.quote(str(path)))


def _first_problem(error: ValidationError, model: type[Config]) -> str:
    """The first thing wrong, in words, and how many more there are."""
    # A misspelt key is both unknown and missing: the first says more.
    problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"]) or "the config"
    value = first.get("input")
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        near = difflib.get_close_matches(key, sorted(_all_keys(model)), n=1)
        text = f"unknown key '{where}'" + (f"; did you mean '{near[0]}'?" if near else "")
    elif first["type"] == "missing":
        text = f"key '{where}' is missing"
    else:
        problem = first["msg"].removeprefix("Value error, ")
        problem = problem[0].lower() + problem[1:]
        # A rule on several keys says what it is about; the whole config behind it would hide that.
        text = problem if isinstance(value, dict) else f"{where}: {json.dumps(value)[:80]}: {problem}"
        if first["type"] == "float_type" and isinstance(value, str):
            text += " (YAML reads 3e-5 as text: write 3.0e-5)"
    more = len(problems) - 1
    return text + (f" (and {more} more)" if more else "")


def _all_keys(model: type[BaseModel]) -> set[str]:
    """Every key name in `model` and the models below it, for 'did you mean'."""
    keys: set[str] = set()
    queue, seen = [model], set()
    while queue:
        current = queue.pop()
        if current in seen:
            continue
        seen.add(current)
        for name, field in current.model_fields.items():
            keys.add(name)
            queue.extend(_models_in(field.annotation))
    return keys


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]
