"""Links of names that Sphinx does not find by itself: those of other libraries, and those this one says in short.

Intersphinx would fetch an inventory of every other library, and so could not build offline. The addresses here follow
from the names. A name that stands for nothing at all stays a warning.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

TORCH = "https://docs.pytorch.org/docs/stable"
PAGES = {
    "torch": f"{TORCH}/generated/{{name}}.html",
    "numpy": "https://numpy.org/doc/stable/reference/generated/{name}.html",
    "pandas": "https://pandas.pydata.org/docs/reference/api/{name}.html",
    "matplotlib": "https://matplotlib.org/stable/api/{within}_api.html#{name}",
    "sklearn": "https://scikit-learn.org/stable/modules/generated/{name}.html",
    "river": "https://riverml.xyz/latest/api/{within}/{last}/",
    "capymoa": "https://capymoa.org/",
    "optuna": "https://optuna.readthedocs.io/en/stable/reference/generated/{name}.html",
}
# Where torch has several on one page.
SHARED_PAGES = {
    "torch.Tensor": f"{TORCH}/tensors.html#torch.Tensor",
    "torch.device": f"{TORCH}/tensor_attributes.html#torch.device",
    "torch.dtype": f"{TORCH}/tensor_attributes.html#torch.dtype",
    "torch.Size": f"{TORCH}/size.html#torch.Size",
    "torch.optim.Optimizer": f"{TORCH}/optim.html#torch.optim.Optimizer",
    "torch.nn.Parameter": f"{TORCH}/generated/torch.nn.parameter.Parameter.html",
}
MOCKED = {"capymoa"}  # see conf.py
# What only type checkers import, and packages that need not be installed.
ELSEWHERE = {
    "Figure": "matplotlib.figure.Figure",
    "pandas.DataFrame": "pandas.DataFrame",
    "ArrayLike": "numpy.typing.ArrayLike",
    "optuna.Trial": "optuna.trial.Trial",
    "optuna.TrialPruned": "optuna.TrialPruned",
}


def imported(name: str) -> Any:
    """What a dotted name stands for, or None."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            value = getattr(value, part, None)
        return value
    return None


def _readings(node: pending_xref) -> Iterator[Any]:
    """What a name may stand for where it is written: as it is, in its class or module, in a file of the package."""
    target = node["reftarget"]
    yield imported(target)
    module, owner = node.get("py:module"), node.get("py:class")
    if module and owner:
        of = imported(f"{module}.{owner}")
        yield getattr(of, target, None)
        # What a class sets in its instances stands in its docstring alone.
        if re.search(
            rf"^ +(\w+, )*{re.escape(target)}(, \w+)*: ", getattr(of, "__doc__", None) or "", re.MULTILINE
        ):
            yield of
    if module:
        yield imported(f"{module}.{target}")
    head, *rest = target.split(".")
    for name in sorted(sys.modules):
        if name.startswith("altmin_ext."):
            value = getattr(sys.modules[name], head, None)
            for part in rest:
                value = getattr(value, part, None)
            yield value


def _documented(env: BuildEnvironment, value: Any) -> str | None:
    """The name under which an object of this library has a place here."""
    objects = env.get_domain("py").objects
    if inspect.isfunction(value) or isinstance(value, property):
        function = value.fget if isinstance(value, property) else value
        names = [f"{function.__module__}.{function.__qualname__}"]
    else:
        names = []
    names += [name for name, entry in objects.items() if entry.objtype in ("class", "function", "exception")]
    return next((name for name in names if name in objects and imported(name) is value), None)


def _public_name(value: Any) -> str | None:
    """The shortest name by which its library hands an object out; None if it has no name, as a union of types."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if module is None or name is None:
        return None
    parts = module.split(".")
    shorter = (".".join((*parts[:end], name)) for end in range(1, len(parts)))
    return next((other for other in shorter if imported(other) is value), f"{module}.{name}")


def _address(name: str) -> str | None:
    module, _, last = name.rpartition(".")
    library = name.partition(".")[0]
    if name in SHARED_PAGES:
        return SHARED_PAGES[name]
    if library in PAGES:
        return PAGES[library].format(name=name, within=module.split(".")[-1], last=last)
    if library in sys.stdlib_module_names:
        return f"https://docs.python.org/3/library/{module}.html#{name}"
    return None


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: nodes.TextElement
) -> nodes.Element | None:
    """A link to what the name stands for, or the name alone where that is private; None if it stands for nothing."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    name = target if target.partition(".")[0] in MOCKED else ELSEWHERE.get(target)
    value = None if name else next((v for v in _readings(node) if v is not None), None)
    if value is not None:
        own = _documented(env, value)
        if own is not None:
            entry = env.get_domain("py").objects[own]
            return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, shown, own)
        name = _public_name(value)
        if name is None or name.startswith("altmin_ext."):
            return shown
    address = None if name is None else _address(name)
    if address is None:
        return None
    link = nodes.reference("", "", internal=False, refuri=address, reftitle=name)
    link += shown
    return link


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
