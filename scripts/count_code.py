"""Count what review of the code's shape looks at: `python scripts/count_code.py [FOLDER]` prints a table.

FOLDER is a package [repro]. Everything is read from the source with `ast`; nothing is imported.
"""

import argparse
import ast
import io
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

LAYERS = (
    ("cli",),
    ("report", "smoke", "plan"),
    ("pipeline",),
    ("judge",),
    ("records",),
    ("table",),
    ("readout",),
    ("features",),
    ("fetch",),
    ("backbones",),
    ("datasets",),
    ("video",),
    ("core",),
)
"""From the top: an import goes only further down, or to the same line. pyproject.toml holds the contract."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Graph = dict[str, set[str]]


@dataclass(frozen=True)
class Module:
    name: str
    """Dotted, with the package's own name first; of a package's `__init__.py`, the package's name."""
    path: Path
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        return self.name if self.path.stem == "__init__" else self.name.rpartition(".")[0]


def load_modules(folder: Path) -> dict[str, Module]:
    modules = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text()
        modules[name] = Module(name, path, text, ast.parse(text))
    return modules


def imports(module: Module, modules: dict[str, Module], nodes: Iterable[ast.AST]) -> set[str]:
    """Modules of the package that these import statements name."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.package.split(".")[: len(module.package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                # `from package import module` imports the module; anything else is a name in `base`.
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in modules else base)
    return {name for name in found if name in modules and name != module.name}


def at_module_level(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run at import: everything outside functions, without blocks for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from at_module_level(node)


def functions(modules: dict[str, Module]) -> Iterator[tuple[Module, Function]]:
    for module in modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield module, node


def import_cycles(graph: Graph) -> list[list[str]]:
    """Strongly connected components of more than one module (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    cycles = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            component = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(component) > 1:
                cycles.append(sorted(component))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return cycles


def imports_upward(graph: Graph) -> list[str]:
    """Imports against LAYERS; modules outside every layer are left out."""
    floor = {package: number for number, packages in enumerate(LAYERS) for package in packages}
    found = []
    for name, targets in graph.items():
        for target in targets:
            above, below = (floor.get(([*module.split("."), ""])[1]) for module in (name, target))
            if above is not None and below is not None and below < above:
                found.append(f"{name} -> {target}")
    return sorted(found)


def defined_names(modules: dict[str, Module]) -> dict[str, set[str]]:
    """Functions and classes at module level, with the modules that define them."""
    names = defaultdict(set)
    for module in modules.values():
        for node in module.tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names[node.name].add(module.name)
    return names


def parameter_count(function: Function) -> int:
    a = function.args
    names = [arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")]) + bool(a.vararg) + bool(a.kwarg)


def local_imports(modules: dict[str, Module]) -> list[str]:
    found = {}
    for module, function in functions(modules):
        for node in ast.walk(function):
            if isinstance(node, ast.Import | ast.ImportFrom):
                found[module.name, node.lineno] = f"{module.path}:{node.lineno}"
    return list(found.values())


def comment_lines(modules: dict[str, Module]) -> int:
    return sum(
        token.type == tokenize.COMMENT
        for module in modules.values()
        for token in tokenize.generate_tokens(io.StringIO(module.text).readline)
    )


def one_word_functions(modules: dict[str, Module]) -> tuple[int, int]:
    """Functions whose name is one word, and all functions; dunder methods are left out."""
    names = [function.name.strip("_") for _, function in functions(modules) if not function.name.startswith("__")]
    return sum("_" not in name for name in names), len(names)


def count(folder: Path) -> list[tuple[str, str, list[str]]]:
    """Rows of the table: what is counted, the count, and where the counted things are."""
    modules = load_modules(folder)
    graph = {m.name: imports(m, modules, at_module_level(m.tree)) for m in modules.values()}
    everywhere = {m.name: imports(m, modules, ast.walk(m.tree)) for m in modules.values()}
    entries = [path.name for path in folder.iterdir() if not path.name.startswith("__")]
    cycles = [", ".join(cycle) for cycle in import_cycles(everywhere)]
    upward = imports_upward(everywhere)
    shared = [f"{name}: {', '.join(sorted(where))}" for name, where in defined_names(modules).items() if len(where) > 1]
    long = [
        f"{m.path}:{f.lineno} {f.name} ({parameter_count(f)})" for m, f in functions(modules) if parameter_count(f) > 7
    ]
    local = local_imports(modules)
    lengths = {m.path: len(m.text.splitlines()) for m in modules.values()}
    short = [f"{path} ({lines})" for path, lines in lengths.items() if lines < 60 and path.name != "__init__.py"]
    written = sum(bool(line.strip()) for m in modules.values() for line in m.text.splitlines())
    lines, one_word, all_functions = sum(lengths.values()), *one_word_functions(modules)
    folders = {path.parent for path in lengths}
    # Every package has the first, and the second is what `python -m` runs.
    own = {"__init__.py", "__main__.py", "__pycache__"}
    large = [f"{f} ({n})" for f in sorted(folders) if (n := len({p.name for p in f.iterdir()} - own)) > 16]
    return [
        ("entries in the folder without __init__ and __main__", str(len(entries)), []),
        ("folders with more than 16 entries, counted likewise", str(len(large)), large),
        ("import cycles", str(len(cycles)), cycles),
        ("  of them at module level", str(len(import_cycles(graph))), []),
        ("imports upward", str(len(upward)), upward),
        ("names defined in more than one module", str(len(shared)), shared),
        ("functions with more than 7 parameters", str(len(long)), long),
        ("imports inside functions", str(len(local)), local),
        ("files under 60 lines (without __init__.py)", str(len(short)), short),
        ("files over 24 kB", str(sum(path.stat().st_size > 24_000 for path in lengths)), []),
        ("comments per 100 lines that are not blank", f"{100 * comment_lines(modules) / written:.1f}", []),
        ("lines", f"{lines:,}", []),
        ("files", str(len(lengths)), []),
        ("one-word function names", f"{one_word} of {all_functions} ({100 * one_word / all_functions:.0f} %)", []),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("repro"))
    parser.add_argument("--where", action="store_true", help="also list what was counted")
    options = parser.parse_args()
    for what, number, where in count(options.folder.resolve()):
        print(f"{what:<52} {number:>18}")
        if options.where:
            for line in where:
                print(f"    {line}")


if __name__ == "__main__":
    main()
