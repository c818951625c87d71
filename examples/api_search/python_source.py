"""Docstrings of Python files, read with `ast` and never by importing the file."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

Documentable = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

# Where documentation that is attached at import time belongs, by the module that attaches it.
ATTACHED_TO = {
    "torch._tensor_docs": "torch.Tensor",
    "torch._storage_docs": "torch.UntypedStorage",
    "torch._size_docs": "torch.Size",
}


@dataclass
class Module:
    """What one file defines, says about it, and re-exports.

    `texts` are (qualified name inside the module, docstring), "" for the module
    itself. `attached` are (full dotted name, docstring) of objects that live
    elsewhere. `strings` are constants that documentation may be made of.
    `imports` maps a name to (module, original name).
    """

    name: str
    is_package: bool
    compiled: bool = False
    texts: list[tuple[str, str]] = field(default_factory=list)
    attached: list[tuple[str, str]] = field(default_factory=list)
    defines: set[str] = field(default_factory=set)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    exported: frozenset[str] | None = None
    strings: dict[str, str] = field(default_factory=dict)


def read_python(source: bytes, name: str, *, is_package: bool) -> Module | None:
    """What a Python file documents; None where it is not valid Python of this version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            return None
    module = Module(name, is_package)
    module.texts.extend(_texts(tree, ""))
    for statement in _top_level(tree.body):
        _read_statement(module, statement)
    return module


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module, those under `if`, `try` and `with` included."""
    for statement in body:
        if isinstance(statement, ast.If):
            yield from _top_level(statement.body + statement.orelse)
        elif isinstance(statement, ast.Try):
            handlers = [inner for handler in statement.handlers for inner in handler.body]
            yield from _top_level(statement.body + statement.orelse + handlers)
        elif isinstance(statement, ast.With):
            yield from _top_level(statement.body)
        else:
            yield statement


def _texts(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, str]]:
    own = ast.get_docstring(node, clean=False)
    if own:
        yield prefix, own
    previous: ast.stmt | None = None
    for child in _top_level(node.body):
        if isinstance(child, Documentable):
            yield from _definition(child, _join(prefix, child.name))
        elif isinstance(child, ast.Expr) and previous is not None:
            yield from _field(previous, child, prefix)
        previous = child


def _definition(
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.ClassDef):
        yield from _texts(node, name)
        return
    own = ast.get_docstring(node, clean=False)
    if own:
        yield name, own


def _field(before: ast.stmt, after: ast.Expr, prefix: str) -> Iterator[tuple[str, str]]:
    """A string that stands under an assignment documents what was assigned."""
    text = after.value.value if isinstance(after.value, ast.Constant) else None
    if isinstance(before, ast.AnnAssign):
        target: ast.expr = before.target
    elif isinstance(before, ast.Assign) and len(before.targets) == 1:
        target = before.targets[0]
    else:
        return
    if isinstance(text, str) and isinstance(target, ast.Name):
        yield _join(prefix, target.id), text


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _read_statement(module: Module, node: ast.stmt) -> None:
    if isinstance(node, Documentable):
        module.defines.add(node.name)
    elif isinstance(node, ast.ImportFrom):
        _read_import(module, node)
    elif isinstance(node, ast.Assign):
        _read_assignment(module, node)
    elif isinstance(node, ast.AugAssign) and _dotted(node.target) == "__all__":
        module.exported = None
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        if _dotted(node.value.func) == "__all__.extend":
            module.exported = None
        module.attached.extend(_attached(module, node.value, ""))


def _read_import(module: Module, node: ast.ImportFrom) -> None:
    origin = node.module or ""
    if node.level:
        parts = module.name.split(".")
        keep = len(parts) - node.level + (1 if module.is_package else 0)
        origin = ".".join([*parts[: max(keep, 0)], *([origin] if origin else [])])
    for alias in node.names:
        if alias.name == "*":
            module.stars.append(origin)
        else:
            module.imports[alias.asname or alias.name] = (origin, alias.name)


def _read_assignment(module: Module, node: ast.Assign) -> None:
    target = _dotted(node.targets[0])
    if target == "__all__":
        module.exported = _names(node.value)
        return
    if isinstance(node.value, ast.Call):
        module.attached.extend(_attached(module, node.value, f"{module.name}.{target}"))
    text = literal(node.value, module.strings)
    owner, _, last = target.rpartition(".")
    if text and last == "__doc__" and owner.partition(".")[0] in module.defines:
        module.texts.append((owner, text))
    elif text and last:
        module.strings[target] = text


def _names(node: ast.expr) -> frozenset[str] | None:
    """The strings of a literal list, None where it holds anything else."""
    if not isinstance(node, (ast.List, ast.Tuple)):
        return None
    texts = [literal(item, {}) for item in node.elts]
    return None if None in texts else frozenset(text for text in texts if text)


def _attached(module: Module, call: ast.Call, assigned: str) -> Iterator[tuple[str, str]]:
    """Documentation handed to a function that sets it on a compiled object."""
    function = _dotted(call.func).rpartition(".")[2]
    texts = [literal(argument, module.strings) for argument in call.args] + [None] * 3
    place = texts[0] or ""
    if function == "add_newdoc" and len(call.args) > 2 and place.startswith("numpy"):
        yield from _numpy_object(f"{_numpy_place(place)}.{texts[1]}", call.args[2], module.strings)
    elif function == "add_newdoc_for_scalar_type" and texts[0] and texts[2]:
        yield f"numpy.{texts[0]}", texts[2]
    elif function == "add_docstr_all" and texts[0] and texts[1] and module.name in ATTACHED_TO:
        yield f"{ATTACHED_TO[module.name]}.{texts[0]}", texts[1]
    elif function in ("add_docstr", "_add_docstr") and texts[1]:
        name = assigned or _dotted(call.args[0])
        if name:
            yield name.replace("torch._C.TensorBase", "torch.Tensor"), texts[1]


def _numpy_object(
    owner: str, argument: ast.expr, strings: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """The third argument of `add_newdoc`: a text, a (member, text), or a list of those."""
    text = literal(argument, strings)
    if text:
        yield owner, text
    for item in argument.elts if isinstance(argument, ast.List) else [argument]:
        parts = item.elts if isinstance(item, ast.Tuple) else []
        pair = [literal(part, strings) for part in parts]
        if len(pair) == 2 and pair[0] and pair[1]:
            yield f"{owner}.{pair[0]}", pair[1]


def _numpy_place(place: str) -> str:
    return "numpy" if place.startswith("numpy._core") else place


def _dotted(node: ast.expr) -> str:
    """`a.b.c` as text; "" for any other expression."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([node.id, *reversed(parts)])


def literal(node: ast.expr, strings: Mapping[str, str]) -> str | None:
    """The text of a string expression, without what is only known at run time.

    Understands literals, names of `strings`, `+`, f-strings,
    `textwrap.dedent(text)` and `text.format(...)`, whose fields are left out.
    """
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.Name):
        return strings.get(node.id)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [literal(node.left, strings), literal(node.right, strings)]
        return "".join(part or "" for part in parts) if any(parts) else None
    if isinstance(node, ast.JoinedStr):
        values = (v.value if isinstance(v, ast.FormattedValue) else v for v in node.values)
        return "".join(literal(value, strings) or "" for value in values)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return _literal_call(node, node.func, strings)
    return None


def _literal_call(
    node: ast.Call, function: ast.Attribute, strings: Mapping[str, str]
) -> str | None:
    if function.attr == "format":
        template = literal(function.value, strings)
        return None if template is None else _without_fields(template)
    if function.attr in ("strip", "lstrip", "rstrip", "replace"):
        return literal(function.value, strings)
    if function.attr in ("dedent", "cleandoc") and node.args:
        return literal(node.args[0], strings)
    return None


def _without_fields(template: str) -> str:
    opened = template.replace("{{", "\0").replace("}}", "\1")
    return re.sub(r"\{[^{}\n]*\}", "", opened).replace("\0", "{").replace("\1", "}")
