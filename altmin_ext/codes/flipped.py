"""A code below a sign without a derivative, which moves by a search over flips."""

from __future__ import annotations

from torch import Tensor

from altmin_ext.codes.matrix import MatrixCode
from altmin_ext.network import BoundStage
from altmin_ext.ops import unversioned as ops


class FlippedCode(MatrixCode):
    """A code that is read through a sign without a derivative, and moves by :func:`altmin_ext.ops.sign_flip`.

    It takes a single step. The activation stays that of the encode.
    """

    iterates_itself = True
    activation_moves = False

    @staticmethod
    def suits(above: BoundStage) -> bool:
        """Whether a stage reads the code below it through a sign without a derivative.

        Args:
            above: the stage that reads the code.

        Returns:
            Whether the code must be a :class:`FlippedCode`.

        Raises:
            ValueError: the stage has such a sign, but in a place where flips cannot be searched.
        """
        if above.pre.activation is not None and above.pre.activation.name == "sign_none":
            if above.map.matrix is None:
                raise ValueError(
                    f"Sign(surrogate='none') must be read by a Linear, but stage {above.name!r} is something else; "
                    "choose another surrogate."
                )
            return True
        if above.pre.has_sign_without_derivative:
            raise ValueError(
                f"Sign(surrogate='none') must follow its map, or a Tanh, at once, but in front of stage "
                f"{above.name!r} it does not; choose another surrogate."
            )
        return False

    def step(self, pulled_back: Tensor, change: Tensor | None, above: Tensor | None, first: bool) -> None:
        matrix = self._above_map.matrix
        assert matrix is not None
        ops.sign_flip(
            self._code,
            pulled_back,
            matrix.norm(dim=0),
            mask=self._mask,
            displacement=self.displacement,
            scalars=self.row,
            above=above,
            guard=self.flags.code,
        )
