"""A module by which a model says itself where one of its stages begins and ends."""

from __future__ import annotations

from torch import Tensor, nn

from altmin_ext._check import named_type


class Stage(nn.Module):
    """A stage defined by hand: it is not split, and no other module is joined to it.

    For parts of a network that belong together, such as a residual block. As a module it computes ``map(pre(x))``.

    Args:
        pre: a module without parameters, such as an activation; None for the identity.
        map: a module with parameters; its output is the code.

    Raises:
        TypeError: one of them is no module.
        ValueError: ``pre`` has parameters, or ``map`` has none.

    Examples:
        >>> import torch, altmin_ext
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 8), altmin_ext.Stage(nn.Tanh(), nn.Linear(8, 2)))
        >>> model(torch.randn(5, 4)).shape
        torch.Size([5, 2])
    """

    def __init__(self, pre: nn.Module | None, map: nn.Module) -> None:
        super().__init__()
        for name, module in (("pre", pre), ("map", map)):
            if not isinstance(module, nn.Module) and (name == "map" or module is not None):
                raise TypeError(f"{name} must be a torch.nn.Module, but is {named_type(module)}.")
        self.pre = nn.Identity() if pre is None else pre
        self.map = map
        if any(True for _ in self.pre.parameters()):
            raise ValueError(f"pre must have no parameters, but {type(pre).__name__} has; move it into map.")
        if not any(True for _ in map.parameters()):
            raise ValueError(
                f"map must have parameters, but {type(map).__name__} has none; move it into pre."
            )

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate ``map(pre(x))``.

        Args:
            x: the input of ``pre``, or of ``map`` if there is no ``pre``.

        Returns:
            The output of ``map``, the code.
        """
        output: Tensor = self.map(self.pre(x))
        return output
