"""The house rules as functions over the source of a package: who imports whom, how long functions and files are.

Nothing is imported: files are parsed with `ast`. Modules are named from the package on (`nn.attend`); a package's own
file is `nn.__init__`. Each check returns its findings as lines of text, an empty list if there are none.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

ORDER = (
    "version tokens utils nn tokenizers decoding model objectives data training recipe cli".split()
)  # from the ground up
APART = {"__init__", "_moved"}  # outside the map
MOST_LINES_OF_FUNCTION, MOST_LINES_OF_FILE, MOST_PARAMETERS, MOST_FILES_ON_TOP = 60, 400, 12, 8
Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules(package: Path) -> dict[str, Path]:
    """Every file of the package by its module's name."""
    paths = sorted(package.rglob("*.py"))
    return {".".join(path.relative_to(package).with_suffix("").parts): path for path in paths}


def parse(path: Path) -> ast.Module:
    return _parsed(path.read_text(encoding="utf-8"))


@functools.cache
def _parsed(text: str) -> ast.Module:
    """Every check reads every file: each is parsed once."""
    return ast.parse(text)


def imports(package: Path) -> dict[str, set[str]]:
    """The modules of the package that each module imports: at its top, in functions, under TYPE_CHECKING or by name."""
    known = modules(package)
    return {name: set(_imports(package.name, known, name, parse(path))) - {name} for name, path in known.items()}


def _imports(root: str, known: dict[str, Path], name: str, tree: ast.Module) -> Iterator[str]:
    home = [root, *name.split(".")[:-1]]  # the package that relative imports start from
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _module(root, known, alias.name)
        elif isinstance(node, ast.ImportFrom):
            above = home[: len(home) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:  # a module of that package, or a name in its own file
                yield from list(_module(root, known, f"{source}.{alias.name}")) or _module(root, known, source)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "_import_module", "__import__"):
                yield from _module(root, known, str(node.args[0].value))


def _module(root: str, known: dict[str, Path], dotted: str) -> Iterator[str]:
    name = f"{dotted}.".removeprefix(f"{root}.").rstrip(".")
    if dotted != root and not dotted.startswith(f"{root}."):
        return
    for candidate in (name, f"{name}.__init__".lstrip(".")):
        if candidate in known:
            yield candidate


def circles(package: Path) -> list[str]:
    """Chains of imports that come back to where they started."""
    graph, found, done = imports(package), [], set()

    def visit(name: str, chain: list[str]) -> None:
        if name in chain:
            found.append(" -> ".join([*chain[chain.index(name) :], name]))
        elif name not in done:
            for other in sorted(graph[name]):
                visit(other, [*chain, name])
            done.add(name)

    for name in graph:
        visit(name, [])
    return found


def wrong_arrows(package: Path) -> list[str]:
    """Imports from a higher room, of a module's own `__init__`, from or of what lies outside the map; unknown rooms."""
    found = []
    for name, others in imports(package).items():
        if name not in APART and _room(name) not in ORDER:
            found.append(f"{name}: {_room(name)} is no room of the map")
            continue
        for other in sorted(others):
            if other in APART and (name, other) != ("__init__", "_moved"):
                found.append(f"{name} -> {other}: nothing imports it")
            elif name not in APART and other not in APART and _height(other) > _height(name):
                found.append(f"{name} -> {other}: {_room(other)} is above {_room(name)}")
            elif other.endswith(".__init__") and name.startswith(other.removesuffix("__init__")):
                found.append(f"{name} -> {other}: its own package")
    return found


def _room(name: str) -> str:
    return name.split(".")[0]


def _height(name: str) -> int:
    return ORDER.index(_room(name)) if _room(name) in ORDER else len(ORDER)


def top_files(package: Path) -> list[str]:
    return sorted(path.name for path in package.glob("*.py") if path.name != "__init__.py")


def long_files(folder: Path) -> list[str]:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sorted(folder.rglob("*.py"))}
    return [f"{path.relative_to(folder)}: {count} lines" for path, count in lines.items() if count > MOST_LINES_OF_FILE]


def files_without_docstring(folder: Path) -> list[str]:
    return [
        str(path.relative_to(folder)) for path in sorted(folder.rglob("*.py")) if not ast.get_docstring(parse(path))
    ]


def mixins(package: Path) -> list[str]:
    return [
        f"{name}.{node.name}"
        for name, path in modules(package).items()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ClassDef) and "mixin" in node.name.lower()
    ]


def functions(package: Path) -> Iterator[tuple[str, Function, ast.AST]]:
    """(where, function, the module, class or function that it stands in), decorators left out of its lines."""
    for name, path in modules(package).items():
        for parent in ast.walk(parse(path)):
            for node in ast.iter_child_nodes(parent):
                if isinstance(node, Function):
                    within = f"{parent.name}." if isinstance(parent, ast.ClassDef | Function) else ""
                    yield f"{name}:{within}{node.name}", node, parent


def long_functions(package: Path) -> list[str]:
    """Functions of more than 60 lines, from `def` to the last line, docstring and inner functions included."""
    lines = ((where, node.end_lineno - node.lineno + 1) for where, node, _ in functions(package))
    return [f"{where}: {count} lines" for where, count in lines if count > MOST_LINES_OF_FUNCTION]


def wide_functions(package: Path) -> list[str]:
    """Functions of more than 12 parameters that may not have so many.

    `self` and `cls` do not count; `*args` and `**kwargs` count as one each. More than 12 are allowed to public functions
    and methods (no name on the way to them starts with an underscore) and to `__init__` of a public class, if a
    docstring mentions every parameter: that of the function, or that of the class for `__init__`. Overloads are held to
    the docstring of the function that they describe.
    """
    found = []
    for where, node, parent in functions(package):
        names = parameters(node)
        if len(names) <= MOST_PARAMETERS:
            continue
        missing = [name for name in names if not re.search(rf"\b{name}\b", _documentation(node, parent))]
        if not _is_public(where, node, parent):
            found.append(f"{where}: {len(names)} parameters, and not public")
        elif missing:
            found.append(f"{where}: {len(names)} parameters, its docstring lacks {', '.join(missing)}")
    return found


def parameters(node: Function) -> list[str]:
    given = node.args
    named = [*given.posonlyargs, *given.args, *([given.vararg] if given.vararg else []), *given.kwonlyargs]
    names = [argument.arg for argument in [*named, *([given.kwarg] if given.kwarg else [])]]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def _is_public(where: str, node: Function, parent: ast.AST) -> bool:
    if isinstance(parent, Function):
        return False
    names = [*where.split(":")[0].split("."), *(["" if node.name == "__init__" else node.name])]
    names += [parent.name] if isinstance(parent, ast.ClassDef) else []
    return not any(name.startswith("_") for name in names if name != "__init__")


def _documentation(node: Function, parent: ast.AST) -> str:
    same = [one for one in ast.iter_child_nodes(parent) if isinstance(one, Function) and one.name == node.name]
    texts = [ast.get_docstring(one) or "" for one in same]
    if node.name == "__init__" and isinstance(parent, ast.ClassDef):
        texts.append(ast.get_docstring(parent) or "")
    return "\n".join(texts)
