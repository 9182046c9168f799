"""Which models may write to their input, as modules with ``inplace=True`` do."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from altmin_ext.network.activations import activation_of
from altmin_ext.nn import Stage

_output_is_new = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def may_write_input(model: nn.Module) -> bool:
    """Whether a model may write to the tensor that it is given.

    Modules run one behind the other up to the first whose output is certainly a tensor of its own, such as a Linear.
    The modules of torch and of this package write to their input only with ``inplace=True``; any other module, and
    any hook, may do so.

    Args:
        model: any module.

    Returns:
        False if it certainly does not.
    """
    for module, is_chain in _in_order(model):
        if module._forward_pre_hooks or module._forward_hooks:
            return True
        if is_chain:
            continue
        ours = type(module).__module__.startswith(("torch.nn.modules.", "altmin_ext."))
        if not ours or getattr(module, "inplace", False) or any(True for _ in module.children()):
            return True
        known = activation_of(module)
        if type(module) in _output_is_new or (known is not None and known.name != "identity"):
            return False
    return False


def _in_order(module: nn.Module) -> Iterator[tuple[nn.Module, bool]]:
    """The modules in the order in which they run, and for each whether it only runs those that follow."""
    is_chain = type(module) is Stage or (
        isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    )
    yield module, is_chain
    if is_chain:
        for child in module.children() if type(module) is Stage else module._modules.values():
            assert child is not None
            yield from _in_order(child)
