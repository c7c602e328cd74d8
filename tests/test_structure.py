"""Limits that keep the code readable; CONTRIBUTING.md gives the reasons."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "efftune"
MODULES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES = 350  # of a file
MOST_CODE = 40  # lines of a function with its signature, without its docstring
MOST_PARAMETERS = 6


def functions(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(node):
    """Lines from the signature to the end, without the docstring."""
    docstring = node.body[0] if ast.get_docstring(node) is not None else None
    documented = docstring.end_lineno - docstring.lineno + 1 if docstring else 0
    return node.end_lineno - node.lineno + 1 - documented


def parameters(node):
    found = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [each.arg for each in found if each.arg not in ("self", "cls")]


def test_top_level_is_short():
    assert {path.name for path in PACKAGE.glob("*.py")} == {
        *("__init__.py", "__main__.py", "errors.py", "run.py"),
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_functions_and_signatures_stay_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    assert {node.name for node in functions(path) if length(node) > MOST_CODE} == set()
    assert {node.name: parameters(node) for node in functions(path)
            if len(parameters(node)) > MOST_PARAMETERS} == {}  # fmt: skip


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES} - {PACKAGE}))
def test_every_folder_describes_what_belongs_there(folder):
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    assert len(docstring.split()) > 15
