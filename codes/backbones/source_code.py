"""Source code: what functions are written as, the same in each version of Python."""

from __future__ import annotations

import ast
import linecache
import sys
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FunctionType

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def source_of(function: FunctionType) -> str:
    """Say what a function does, as it is written; what it holds and reads has no part in it.

    That is its syntax tree, without docstrings. Where its source is not known, its bytecode and the
    version of Python: where there is none, where it is another by now, or where several functions
    of one name begin in the same line.

    Examples
    --------
    >>> exec("def double(x): return 2 * x")
    >>> source_of(double)[:9]
    'bytecode '
    """
    code = function.__code__
    linecache.checkcache(code.co_filename)
    text = "".join(linecache.getlines(code.co_filename, function.__globals__))
    by_line, compiled = _functions(text, code.co_filename)
    found = by_line.get((code.co_firstlineno, code.co_name), [])
    if len(found) == 1 and code in compiled:
        return _syntax(found[0])
    return f"bytecode of {sys.implementation.cache_tag} {_bytecode(code)}"


def names_read(code: CodeType) -> set[str]:
    """Return the names that code reads: globals and attributes, in functions within it as well."""
    return set(code.co_names).union(*map(names_read, _within(code)))


@lru_cache(maxsize=16)
def _functions(
    text: str, file: str
) -> tuple[dict[tuple[int, str], list[ast.AST]], frozenset[CodeType]]:
    """Parse a file; return its functions by first line and name, and their code."""
    by_line: dict[tuple[int, str], list[ast.AST]] = {}
    try:
        tree = ast.parse(text)
        code = compile(text, file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):  # As of a notebook's own commands.
        return by_line, frozenset()
    for node in ast.walk(tree):
        if isinstance(node, _FUNCTIONS):
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
            by_line.setdefault((first, getattr(node, "name", "<lambda>")), []).append(node)
    return by_line, frozenset(_all_within(code))


def _within(code: CodeType) -> Iterator[CodeType]:
    return (constant for constant in code.co_consts if isinstance(constant, CodeType))


def _all_within(code: CodeType) -> Iterator[CodeType]:
    for inner in _within(code):
        yield inner
        yield from _all_within(inner)


def _syntax(node: object) -> str:
    """Write out a syntax tree. `ast.dump` and `ast.unparse` differ from version to version."""
    if isinstance(node, list):
        return f"[{', '.join(map(_syntax, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, [])}
    if isinstance(node, ast.Constant):
        fields = {"value": node.value}
    if isinstance(node, ast.JoinedStr):  # Since Python 3.12 some have an empty piece more.
        fields = {"values": [it for it in node.values if getattr(it, "value", None) != ""]}
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        fields["body"] = node.body[ast.get_docstring(node, clean=False) is not None :]
    return f"{type(node).__name__}({', '.join(f'{k}={_syntax(v)}' for k, v in fields.items())})"


def _bytecode(code: CodeType) -> str:
    constants = [
        _bytecode(constant) if isinstance(constant, CodeType)
        else str(sorted(map(repr, constant))) if isinstance(constant, frozenset)
        else repr(constant)
        for constant in code.co_consts
    ]  # fmt: skip
    arguments = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_varnames
    return (
        f"{code.co_code.hex()} {code.co_exceptiontable.hex()} {constants} {code.co_names} "
        f"{code.co_flags} {arguments} {code.co_freevars} {code.co_cellvars}"
    )
