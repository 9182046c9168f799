"""Every public callable says what it means, takes, returns and raises. Oracle: its own signature and source.

Public are the modules and packages right below ``altmin_ext``, the modules that they name in ``__all__``, what all of
these name there, and the methods and properties of such classes whose names begin with no underscore. What a class
inherits is documented where it is defined. A method that overrides another may leave its docstring to it.

A section counts by its entries, each a name and a text, and not by words that happen to stand in it.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import enum
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from functools import cached_property
from types import FunctionType, ModuleType
from typing import Any

import pytest

import altmin_ext
from altmin_ext.methods import MethodOptions


def modules() -> list[ModuleType]:
    """The package, the modules and packages right below it, and the modules that those name in ``__all__``."""
    names = [m.name for m in pkgutil.iter_modules(altmin_ext.__path__, "altmin_ext.") if "._" not in m.name]
    above = [altmin_ext, *(importlib.import_module(name) for name in names if _is_importable(name))]
    named = [getattr(module, name) for module in above for name in module.__all__ if hasattr(module, name)]
    return list({m.__name__: m for m in (*above, *named) if isinstance(m, ModuleType)}.values())


def _is_importable(name: str) -> bool:
    """Whether the library that a module adapts to is installed, if it is one that the other tests do without."""
    if name not in ("altmin_ext.river", "altmin_ext.capymoa"):
        return True
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _section(documentation: str, title: str) -> str:
    """What stands indented under a title, or nothing."""
    match = re.search(rf"^{title}:\n((?:[ ]+.*\n?|\n)+)", documentation, re.MULTILINE)
    return inspect.cleandoc("\n" + match.group(1)) if match else ""


def _entries(documentation: str, title: str) -> set[str]:
    """The names that have a text in a section: ``name: text``, or ``name, other: text``."""
    entries = re.findall(r"^([\w*`, ]+):\s+\S", _section(documentation, title), re.MULTILINE)
    return {name.strip(" `*") for names in entries for name in names.split(",")}


def _meaning(documentation: str) -> str:
    """What stands before the sections."""
    return re.split(r"^(?:Args|Attributes|Returns|Yields|Raises):$", documentation, flags=re.MULTILINE)[0]


def _names_a_source(text: str) -> bool:
    """Whether a publication is named: an author, and the year behind."""
    return bool(re.search(r"[A-Z][\w-]+( et al\.|,? (and|&) [A-Z][\w-]+)?,? \(?(19|20)\d\d", text))


@dataclasses.dataclass(frozen=True)
class Callable:
    """A function, class, method or property with where it stands."""

    name: str
    object: Any
    owner: type | None = None

    @property
    def function(self) -> FunctionType | None:
        """The code to call it, or None for a class that defines no ``__init__`` of its own."""
        if isinstance(self.object, property | cached_property):
            return self.object.fget if isinstance(self.object, property) else self.object.func
        if inspect.isclass(self.object):
            return vars(self.object).get("__init__")
        function = inspect.unwrap(getattr(self.object, "__func__", self.object))
        return getattr(function, "reference", function)  # of an op

    @property
    def documentation(self) -> str:
        return inspect.cleandoc(self.object.__doc__ or "")

    @property
    def parameters(self) -> list[str]:
        """What a caller passes; of a dataclass its fields, which are attributes, too; of an enum its members."""
        if inspect.isclass(self.object) and issubclass(self.object, enum.Enum):
            return list(self.object.__members__)
        if dataclasses.is_dataclass(self.object):
            if issubclass(self.object, MethodOptions):
                return []  # every option has a help text, which the command line shows
            return [field.name for field in dataclasses.fields(self.object) if field.init]
        if self.function is None or isinstance(self.object, property | cached_property):
            return []
        names = inspect.signature(self.function).parameters
        return [name for name in names if name not in ("self", "cls") and not name.startswith("_")]

    @property
    def returns(self) -> bool:
        """Whether it returns something that a sentence on it would not say: a property is what it returns."""
        if inspect.isclass(self.object) or isinstance(self.object, property | cached_property):
            return False
        # As it is written, since some types are known to type checkers alone.
        annotation = self.function.__annotations__.get("return") if self.function else None
        return annotation not in (None, "None", "NoReturn")

    @property
    def raises(self) -> set[str]:
        """The exceptions that its own body raises, and those of the functions of the package that it calls."""
        if self.function is None or dataclasses.is_dataclass(self.object):
            return set()
        called = (
            _resolved(node.func, self.function, self.owner or self.object)
            for node in _nodes(ast.Call, self.function)
        )
        functions = {
            self.function,
            *(f for f in called if inspect.isfunction(f) and f.__module__ in _raising),
        }
        return {name for function in functions for name in _raised_by(function)}


_raising = (
    "altmin_ext._check",
    "altmin_ext.errors",
)  # whose functions raise in the name of the one that calls them


def _nodes(kind: type[Any], function: FunctionType) -> list[Any]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except OSError:  # made by a decorator
        return []
    return [node for node in ast.walk(tree) if isinstance(node, kind)]


def _resolved(expression: ast.expr, function: FunctionType, owner: Any) -> Any:
    """What a name or a dotted name in a function stands for; None where that is not known before it runs."""
    root, *path = ast.unparse(expression).split(".")
    value = owner if root == "self" else function.__globals__.get(root, getattr(builtins, root, None))
    for part in path:
        value = getattr(value, part, None)
    return value


def _raised_by(function: FunctionType) -> set[str]:
    """The exceptions that a function raises by name, or by a function that makes one; abstract parts apart."""
    found = set()
    for node in _nodes(ast.Raise, function):
        made = (
            _resolved(node.exc.func if isinstance(node.exc, ast.Call) else node.exc, function, None)
            if node.exc
            else None
        )
        if inspect.isfunction(made):
            found.add(made.__annotations__["return"])
        elif inspect.isclass(made) and made is not NotImplementedError:
            found.add(made.__name__)
    return found


def _overrides(owner: type, name: str) -> bool:
    return any(getattr(vars(base).get(name), "__doc__", None) for base in owner.__mro__[1:])


def _members(owner: type, path: str) -> Iterator[Callable]:
    for name, member in vars(owner).items():
        if name.startswith("_"):
            continue
        is_callable = inspect.isfunction(member) or isinstance(
            member, staticmethod | classmethod | property | cached_property
        )
        in_class = isinstance(member, property) and any(
            name in _entries(inspect.cleandoc(cls.__doc__ or ""), "Attributes") for cls in owner.__mro__
        )
        if is_callable and (member.__doc__ or not (in_class or _overrides(owner, name))):
            yield Callable(f"{path}.{name}", member, owner)


def callables() -> list[Callable]:
    """All public callables of the package, each once."""
    found: dict[int, Callable] = {}
    for module in modules():
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name, None)  # what does not exist fails in a test of its own
            path = (
                f"{value.__module__}.{name}" if hasattr(value, "__module__") else f"{module.__name__}.{name}"
            )
            if not (inspect.isfunction(value) or inspect.isclass(value)) or id(value) in found:
                continue
            found[id(value)] = Callable(path, value)
            if inspect.isclass(value):
                found |= {id(member.object): member for member in _members(value, path)}
    return list(found.values())


PUBLIC = callables()
every_callable = pytest.mark.parametrize("of", PUBLIC, ids=lambda of: of.name)


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_module_says_what_it_is(module: ModuleType) -> None:
    assert re.match(r"[^\n]+([^\n]\n[^\n]+)*[.:]\n*", module.__doc__ or "")


@every_callable
def test_says_what_it_means(of: Callable) -> None:
    first = of.documentation.split("\n\n")[0]
    assert len(re.findall(r"[a-z]{2,}", first)) >= 3, f"{of.name} says nothing of its meaning"
    assert first.rstrip().endswith((".", ":")), f"{of.name} does not begin with a sentence"


@every_callable
def test_says_what_it_takes(of: Callable) -> None:
    has_fields = dataclasses.is_dataclass(of.object) or isinstance(of.object, enum.EnumMeta)
    title = "Attributes" if has_fields else "Args"
    missing = set(of.parameters) - _entries(of.documentation, title)
    # A single argument may be said in the sentence itself.
    if len(of.parameters) == 1 and f"``{of.parameters[0]}``" in _meaning(of.documentation):
        missing = set()
    assert missing == set()


@every_callable
def test_names_only_what_it_takes(of: Callable) -> None:
    """An argument that has been renamed or dropped is not left behind."""
    if inspect.isclass(of.object) and of.function is None:
        return
    assert _entries(of.documentation, "Args") - set(of.parameters) == set()


@every_callable
def test_says_what_it_returns(of: Callable) -> None:
    if not of.returns:
        return
    # Where nothing is passed, a sentence that is the value, such as "The names of all methods.", needs no other one.
    is_value = not of.parameters and re.match(r"(The|A|An|Whether|How|What|Which)\b|\(", of.documentation)
    says = _section(of.documentation, "Returns") or _section(of.documentation, "Yields")
    assert len(says.split()) >= 2 or is_value, f"{of.name} does not say what it returns"


@every_callable
def test_says_what_it_raises(of: Callable) -> None:
    sentence = set(re.findall(r"\w+Error", of.documentation.split("\n\n")[0]))
    assert of.raises - _entries(of.documentation, "Raises") - sentence == set()


@pytest.mark.parametrize("name", altmin_ext.methods.names())
def test_every_method_names_its_source(name: str) -> None:
    """A paper with its year, in the class or at the top of its file."""
    cls = altmin_ext.methods.method_class(name)
    assert _names_a_source(f"{cls.__doc__}\n{importlib.import_module(cls.__module__).__doc__}"), name


@pytest.mark.parametrize("name", altmin_ext.ops.names)
def test_every_op_says_its_formula_or_source(name: str) -> None:
    text = _meaning(inspect.cleandoc(getattr(altmin_ext.ops, name).__doc__))
    has_formula = re.search(r"\w\S* (<-|=) \S|\bargmin_\w", text)
    assert has_formula or _names_a_source(text), f"{name} has neither a formula nor a source"


@pytest.mark.parametrize("name", altmin_ext.ops.names)
def test_every_op_says_what_its_kernel_refuses(name: str) -> None:
    """Every kernel checks kinds and shapes; a twin leaves that to it."""
    assert _entries(getattr(altmin_ext.ops, name).__doc__.replace("\n    ", "\n"), "Raises") >= {
        "TypeError",
        "ValueError",
    }


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_public_names_exist(module: ModuleType) -> None:
    """In every public module: what is not in ``__all__`` is no promise."""
    names = module.__all__
    assert len(names) == len(set(names))
    assert [name for name in names if name.startswith("_") or not hasattr(module, name)] == []
