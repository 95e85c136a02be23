"""No function and no module grows beyond what can be read at once."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "car"
FUNCTION, MODULE = 60, 500  # lines; docstrings of functions are not counted


def statements(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.stmt]:
    documented = ast.get_docstring(function) is not None and len(function.body) > 1
    return function.body[1:] if documented else function.body


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef, *, signature: bool) -> int:
    body = statements(function)
    inside = (body[-1].end_lineno or 0) - body[0].lineno + 1
    return inside + (function.body[0].lineno - function.lineno if signature else 0)


def is_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether its signature declares the options of a command, a line or more each."""
    return any("command(" in ast.unparse(decorator) for decorator in function.decorator_list)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_functions_are_short(path: Path) -> None:
    long = {
        node.name: count
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (count := lines_of(node, signature=not is_command(node))) > FUNCTION
    }
    assert not long


def test_modules_are_short() -> None:
    files = (path for kind in ("*.py", "*.js") for path in SOURCE.rglob(kind))
    lengths = {path.relative_to(SOURCE).as_posix(): len(path.read_text().splitlines()) for path in files}
    assert not {name: count for name, count in lengths.items() if count > MODULE}


def test_a_long_function_would_be_found() -> None:
    lines = "\n".join(f"    x = {n}" for n in range(FUNCTION))
    (function,) = ast.parse(f'def f():\n    """Say."""\n{lines}\n').body
    assert isinstance(function, ast.FunctionDef)
    assert lines_of(function, signature=False) == FUNCTION
    assert lines_of(function, signature=True) == FUNCTION + 1
