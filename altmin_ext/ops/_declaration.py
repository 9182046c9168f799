"""An op is declared once, by its twin: signature, docstring and the formula in plain torch.

``@op`` turns the twin into the function that users call, which runs the native kernel if there is one for the device
of its tensors, and the twin otherwise. The twin itself is its attribute ``reference``.

Kernels write without torch's knowledge. The function therefore raises the version counters of all that the op writes,
as torch's own operations do: autograd then refuses to use a saved tensor that has been overwritten. Its attribute
``unversioned`` does not, and is as fast as a small network needs it.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, ParamSpec, Protocol, cast

from torch import Tensor
from torch.autograd.graph import increment_version

from altmin_ext.errors import unknown_name
from altmin_ext.ops import _native

P = ParamSpec("P")

declared: dict[str, Op[Any]] = {}
takes_kernels = True


class Op(Protocol[P]):
    """An op.

    Attributes:
        reference: the twin in plain torch, with the same arguments. It works on any device and does not wait for it,
            except to check labels on the CPU.
        unversioned: the op, which leaves the version counters of what it writes as they are.
        written: the names of the arguments that it writes.
    """

    __name__: str
    reference: Callable[P, None]
    unversioned: Callable[P, None]
    written: tuple[str, ...]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None: ...


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Run every op within the context on one backend.

    Args:
        name: "native" for kernels wherever there are some, which is the default; "reference" for the twins in plain
            torch.

    Returns:
        A context manager. When it ends, the previous backend is in use again.

    Raises:
        ValueError: there is no backend of that name.
    """
    global takes_kernels
    if name not in ("native", "reference"):
        raise unknown_name("backend", name, ("native", "reference"))
    before, takes_kernels = takes_kernels, name == "native"
    try:
        yield
    finally:
        takes_kernels = before


def kernels_for(tensor: Any) -> ModuleType | None:
    """The native module if it has a kernel for this tensor's device, else None.

    Raises:
        ImportError: the kernels are needed but cannot be loaded; says why and what to do.
    """
    if not takes_kernels:
        return None
    elsewhere = isinstance(tensor, Tensor) and not (tensor.is_cpu or tensor.is_meta)
    if elsewhere and not (tensor.is_cuda and _native.has_cuda_kernels):
        return None
    if _native.module is None:
        raise ImportError(_native.reason)
    return _native.module


# Ops of small networks take less than a microsecond, so there is only this one function between the user and a CPU
# kernel. Arguments that are no tensors or have no memory go to the kernel, too, which has the best error message for
# them.
_dispatcher = """
def {name}({signature}):
    tensor = {first}
    kernels = native.module if declaration.takes_kernels and getattr(tensor, "is_cpu", True) else None
    if kernels is None:
        kernels = declaration.kernels_for(tensor)
    if kernels is None:
        twin({by_name})
    else:
        kernels.{name}({by_position}){raise_versions}
"""


def op(written: Sequence[str]) -> Callable[[Callable[P, None]], Op[P]]:
    """Declare an op.

    Its kernel is the native module's function of the same name, with the same arguments in the same order. The device
    of the first argument, a tensor or a list of tensors, decides whether the kernel or the twin runs.

    Args:
        written: the names of the arguments that it writes, whether or not it also reads them.
    """

    def declare(twin: Callable[P, None]) -> Op[P]:
        name, signature = twin.__name__, inspect.signature(twin)
        parameters = list(signature.parameters.values())
        first = parameters[0].name
        if str(parameters[0].annotation).startswith("Sequence"):
            first = f"{first}[0] if isinstance({first}, (list, tuple)) and {first} else None"
        by_name = (p.name if p.kind is p.POSITIONAL_OR_KEYWORD else f"{p.name}={p.name}" for p in parameters)
        bare = [p.replace(annotation=p.empty) for p in parameters]
        source = _dispatcher.format(
            name=name,
            signature=str(inspect.Signature(bare))[1:-1],
            first=first,
            by_name=", ".join(by_name),
            by_position=", ".join(p.name for p in parameters),
            raise_versions="{raise_versions}",
        )
        raising = "".join(_raising(signature.parameters[argument]) for argument in written)
        function = cast("Op[P]", _compiled(source.format(raise_versions=raising), twin))
        function.unversioned = _compiled(source.format(raise_versions=""), twin)
        function.reference, function.written = twin, tuple(written)
        declared[name] = function
        return function

    return declare


def _raising(parameter: inspect.Parameter) -> str:
    """The lines of a dispatcher that raise the version counters of an argument, as cheaply as its type allows."""
    name, annotation = parameter.name, str(parameter.annotation)
    if annotation.startswith("Sequence"):
        every = f"[t for t in {name} if t is not None]" if "None" in annotation else name
        return f"\n        increment_version({every})"
    if "None" in annotation:
        return f"\n        if {name} is not None:\n            increment_version({name})"
    return f"\n        increment_version({name})"


def _compiled(source: str, twin: Callable[P, None]) -> Callable[P, None]:
    scope = {
        "native": _native,
        "declaration": sys.modules[__name__],
        "twin": twin,
        "increment_version": increment_version,
    }
    exec(compile(source, f"<op {twin.__name__}>", "exec"), scope)
    function = cast("Callable[P, None]", scope[twin.__name__])
    for attribute in ("__doc__", "__module__", "__qualname__", "__annotations__"):
        setattr(function, attribute, getattr(twin, attribute))
    return function
