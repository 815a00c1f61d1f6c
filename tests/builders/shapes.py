"""How the tests check shapes: every function and dataclass of `repro` whose annotations state one is checked at each call.

Importing this module does it for what is imported of `repro` afterwards: shapes by jaxtyping, types by beartype, an int being a
float too. Only what states shapes is wrapped: jaxtyping's own hook wraps every function of a package, which took a quarter more time
in the tests of readouts and verdicts; mypy checks the other types. REPRO_TEST_SHAPES=0 leaves it out.
"""

import functools
import inspect
import os
import sys
from collections.abc import Sequence
from dataclasses import is_dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import FunctionType, ModuleType
from typing import Any, get_args

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, jaxtyped

_check_always = jaxtyped(typechecker=beartype(conf=BeartypeConf(is_pep484_tower=True)))


def _check(value: Any) -> Any:
    """Check a function at each call, or a dataclass when it is made; not while torch.compile traces, which would trace the check."""
    checked = _check_always(value)
    if not isinstance(value, FunctionType) or "torch" not in sys.modules:
        return checked
    is_compiling = sys.modules["torch"].compiler.is_compiling

    @functools.wraps(checked)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (value if is_compiling() else checked)(*args, **kwargs)

    return call


class _CheckedFile(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        for name, value in list(vars(module).items()):
            if getattr(value, "__module__", None) == module.__name__:
                _wrap(module, name, value)


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name.startswith("repro.") else None
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _CheckedFile(spec.loader.name, spec.loader.path)
        return spec


def _wrap(owner: ModuleType | type, name: str, value: object) -> None:
    """Replace what `owner` has under `name` by one that is checked, if it states shapes."""
    match value:
        case staticmethod() | classmethod() if _states_shapes(value.__func__):
            setattr(owner, name, type(value)(_check(value.__func__)))
        case property(fget=FunctionType() as read) if _states_shapes(read):
            setattr(owner, name, property(_check(read)))
        case FunctionType() if _states_shapes(value):
            if hasattr(value, "__wrapped__") and inspect.isgeneratorfunction(inspect.unwrap(value)):
                return  # a context manager, which states what it yields
            setattr(owner, name, _check(value))
        case type():
            for below, member in list(vars(value).items()):
                _wrap(value, below, member)
            if is_dataclass(value) and _states_shapes(value):
                _check(value)


def _states_shapes(value: Any) -> bool:
    # A class without annotations of its own would show those of its base; what is written in C has none.
    own = vars(value).get("__annotations__", {}) if isinstance(value, type) else getattr(value, "__annotations__", {})
    return any(map(_is_shape, own.values()))


def _is_shape(annotation: Any) -> bool:
    parts = get_args(annotation)
    return any(map(_is_shape, parts)) or (isinstance(annotation, type) and issubclass(annotation, AbstractArray))


if os.environ.get("REPRO_TEST_SHAPES") != "0":
    late = [name for name in sys.modules if name.startswith("repro.")]
    assert not late, f"imported before their shapes could be checked: {late}"
    sys.meta_path.insert(0, _Finder())
