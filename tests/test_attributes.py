"""An object has all its attributes from the beginning: none appears outside `__init__`."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "molo_jax"
BEGIN = ("__init__", "__post_init__")
# The attribute of a base class of the standard library.
INHERITED = {("_PatientOnceConnected", "timeout")}


def appearing(source):
    """Returns class and name of every attribute that a method sets and the beginning does not."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            declared = {n.target.id for n in node.body if isinstance(n, ast.AnnAssign)}
            methods = [each for each in node.body if isinstance(each, ast.FunctionDef)]
            begin = [each for each in methods if each.name in BEGIN]
            known = declared.union(*map(assigned, begin))
            found |= {(node.name, name) for each in methods for name in assigned(each) - known}
    return found - INHERITED


def assigned(method):
    return {
        node.attr
        for node in ast.walk(method)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_no_attribute_appears_outside_of_init(path):
    assert appearing(path.read_text()) == set()


def test_an_attribute_that_appears_later_would_be_found():
    source = "class A:\n x: int\n def __init__(self):\n  self.y = 1\n"
    assert appearing(f"{source} def f(self):\n  self.x = self.y = 2\n") == set()
    assert appearing(f"{source} def f(self):\n  with g() as self.z:\n   pass\n") == {("A", "z")}
