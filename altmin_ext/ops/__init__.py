"""One typed function per op: the native kernel where there is one for the tensors at hand, else the reference.

The formulas are in ``csrc/ops/<op>.h`` and, as code, in :mod:`altmin_ext.ops.reference`. All ops write into tensors
they are given and allocate nothing. Scalars that change from step to step come in parameter blocks, rows of float64
named by :mod:`altmin_ext.ops.scalars`. A ``guard`` is a float64 tensor of one flag, raised (set to 1) when a
result is not finite; it is never lowered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from torch import Tensor

from altmin_ext.errors import unknown_name
from altmin_ext.ops import native, reference, scalars
from altmin_ext.ops.activation import Activation
from altmin_ext.ops.scalars import AdamScalar, CodeScalar, MemoryScalar, UpdateScalar

_backend = "native"
LANES = 16  # samples that lie side by side, see :func:`interleave`


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Within the context every op runs on that backend: "native" (the default) or "reference"."""
    global _backend
    if name not in ("native", "reference"):
        raise unknown_name("backend", name, ("native", "reference"))
    before, _backend = _backend, name
    try:
        yield
    finally:
        _backend = before


def _native(tensor: Tensor | None) -> ModuleType | Any:
    """The native module if it has a kernel for this tensor's device, else None.

    Raises:
        ImportError: the kernels are needed but cannot be loaded; says why and what to do.
    """
    if _backend == "reference":
        return None
    if isinstance(tensor, Tensor) and not tensor.is_cpu and not (tensor.is_cuda and native.has_cuda_kernels):
        return None
    if native.module is None:
        raise ImportError(native.reason)
    return native.module


def activate(
    code: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    activation: Tensor,
    sigma: Activation,
    guard: Tensor | None = None,
) -> None:
    """code <- code + bias; activation = mask * sigma(code).

    Args:
        code: (B, n), in and out.
        bias: (n,) or None.
        mask: (B, n) dropout mask, 0 or 1/(1-p), or None.
        activation: (B, n), out; may be ``code``, which then is lost.
        sigma: the activation.
        guard: (1,) float64, raised if a code is not finite.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    if kernels := _native(code):
        kernels.activate(code, bias, mask, activation, sigma.kind, sigma.parameter, guard)
    else:
        reference.activate(code, bias, mask, activation, sigma, guard)


def code_step(
    code: Tensor,
    pulled_back: Tensor,
    pulled_back_change: Tensor | None,
    mask: Tensor | None,
    displacement: Tensor,
    velocity: Tensor | None,
    activation: Tensor,
    activation_displacement: Tensor | None,
    scalars: Tensor,
    above: Tensor | None,
    first: bool,
    sigma: Activation,
    guard: Tensor | None = None,
    gap: Tensor | None = None,
) -> None:
    """One gradient step of a code on its local objective (Choromanska et al. 2019, equations 4 and 5).

    The code c is held as its displacement from the encode, c0 - c = unit * displacement.

    Args:
        code: (B, n), c0. With relu or the identity, and a single iteration without threshold, sigma(c0) will do.
        pulled_back: (B, n), W^T times the residual of the stage above, in the unit of the code above.
        pulled_back_change: (B, n), W^T W (a - a0) in this code's unit, or None.
        mask: (B, n) dropout mask or None.
        displacement: (B, n), in and out; only out on the first iteration, where it may be ``pulled_back``.
        velocity: (B, n), momentum's memory, likewise; None without momentum or for a single iteration.
        activation: (B, n), out: mask * sigma(c); with relu or the identity it may be ``code`` on the first iteration.
        activation_displacement: (B, n), out: mask * (sigma(c) - sigma(c0)) / unit, free of cancellation;
            None where nobody needs it.
        scalars: this code's parameter block, a row of :class:`CodeScalar`.
        above: the block of the code above, None for the top code.
        first: whether this is the first iteration of the minibatch.
        sigma: the activation.
        guard: (1,) float64, raised if a displacement is not finite.
        gap: (B, n), how far the code may fall before another one takes its place, or None: a code that falls
            farther counts in ``activation`` and ``activation_displacement`` as fallen by its gap.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    if kernels := _native(code):
        kernels.code_step(
            code, pulled_back, pulled_back_change, mask, displacement, velocity, activation,
            activation_displacement, scalars, above, first, sigma.kind, sigma.parameter, guard, gap,
        )  # fmt: skip
    else:
        reference.code_step(
            code, pulled_back, pulled_back_change, mask, displacement, velocity, activation,
            activation_displacement, scalars, above, first, sigma, guard, gap,
        )  # fmt: skip


def sign_flip(
    code: Tensor,
    pulled_back: Tensor,
    norm: Tensor,
    mask: Tensor | None,
    displacement: Tensor,
    scalars: Tensor,
    above: Tensor | None,
    guard: Tensor | None = None,
) -> None:
    """Where its local objective wants a code that is read through a sign, found without a derivative.

    As long as all other units keep their signs, the objective is a parabola in what a unit gives off. The sign of its
    minimiser is the better one of -1 and +1, and its size says how clearly. Codes in [-1, 1] are led there, the
    others stay. The objective is the one that the code above would set if it had moved by a root mean square of one:
    for a move as short as its own is, a flip never pays. So the activation stays that of the encode, too.

    Args:
        code: (B, n), c0.
        pulled_back: (B, n), W^T times the residual of the stage above, in the unit of the code above.
        norm: (n,), the norms of W's columns.
        mask: (B, n) dropout mask or None.
        displacement: (B, n), out, in a unit of 1; may be ``pulled_back``.
        scalars: this code's parameter block, a row of :class:`CodeScalar`.
        above: the block of the code above, None for the top code, whose objective is the loss, bounded from above.
        guard: (1,) float64, raised if a displacement is not finite.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    if kernels := _native(code):
        kernels.sign_flip(code, pulled_back, norm, mask, displacement, scalars, above, guard)
    else:
        reference.sign_flip(code, pulled_back, norm, mask, displacement, scalars, above, guard)


def softmax_residual(
    logits: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    residual: Tensor,
    bias_gradient: Tensor | None,
    loss: Tensor,
    correct: Tensor,
    guard: Tensor | None = None,
) -> None:
    """softmax(logits + bias) - onehot(labels), with the cross-entropy and the correct count in the same pass.

    Args:
        logits: (B, C).
        bias: (C,) or None.
        labels: (B,) int64; on a GPU one outside [0, C) makes the loss NaN, which raises the guard.
        residual: (B, C), out; may be ``logits``.
        bias_gradient: (C,), out: sum over the batch of the residual; or None.
        loss: 0-d, out: batch mean of the cross-entropy.
        correct: 0-d int64, out: how many arg max agree with their label.
        guard: (1,) float64, raised if the loss is not finite.

    Raises:
        ValueError: a label outside [0, C) (on the CPU), a wrong shape or device, or shared memory.
        TypeError: a wrong dtype.
    """
    if kernels := _native(logits):
        kernels.softmax_residual(logits, bias, labels, residual, bias_gradient, loss, correct, guard)
    else:
        reference.softmax_residual(logits, bias, labels, residual, bias_gradient, loss, correct, guard)


def mse_residual(
    logits: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    residual: Tensor,
    bias_gradient: Tensor | None,
    loss: Tensor,
    guard: Tensor | None = None,
) -> None:
    """(2 / C) (logits + bias - targets), with the mean squared error in the same pass.

    Args:
        logits: (B, C).
        bias: (C,) or None.
        targets: (B, C).
        residual: (B, C), out; may be ``logits``.
        bias_gradient: (C,), out: sum over the batch of the residual; or None.
        loss: 0-d, out: mean over B and C of the squared error.
        guard: (1,) float64, raised if the loss is not finite.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    if kernels := _native(logits):
        kernels.mse_residual(logits, bias, targets, residual, bias_gradient, loss, guard)
    else:
        reference.mse_residual(logits, bias, targets, residual, bias_gradient, loss, guard)


def weight_residual(
    displacements: Sequence[Tensor],
    products: Sequence[Tensor | None],
    biases: Sequence[Tensor | None],
    codes: Sequence[Tensor | None],
    residuals: Sequence[Tensor],
    bias_gradients: Sequence[Tensor | None],
    scalars: Sequence[Tensor],
    below: Sequence[Tensor | None],
    guard: Tensor | None = None,
) -> None:
    """Residuals W a + b - c of hidden stages' weight subproblems (equation 6), each divided by its stage's scale.

    Every argument but the guard is a list with an entry for each stage; all stages have the same B.

    Args:
        displacements: (B, n), of the stage's code, in its unit.
        products: (B, n), W times the activation displacement where ``below`` is given, else W a; None: zero.
        biases: (n,) or None.
        codes: (B, n), c0, or None.
        residuals: (B, n), out; may be the stage's displacement or product.
        bias_gradients: (n,), out: sum over the batch of the residual; or None.
        scalars: the code's parameter block, a row of :class:`CodeScalar`.
        below: the block of the code below, or None.
        guard: (stages,) float64, a flag each, raised if the residual is not finite.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    if kernels := _native(displacements[0] if displacements else None):
        kernels.weight_residual(
            displacements, products, biases, codes, residuals, bias_gradients, scalars, below, guard
        )
    else:
        reference.weight_residual(
            displacements, products, biases, codes, residuals, bias_gradients, scalars, below, guard
        )


def adam_update(
    weights: list[Tensor],
    gradients: list[Tensor],
    first_moments: list[Tensor],
    second_moments: list[Tensor],
    scalars: Tensor,
    adam: Tensor,
    guard: Tensor | None = None,
    guard_index: Tensor | None = None,
) -> None:
    """Adam (Kingma & Ba 2015) with decoupled decay and soft threshold, on all tensors in one call.

    Does nothing if a flag of the guard is up. An element whose weight or moment would not be finite keeps its
    old values and raises the flag of its tensor.

    Args:
        weights, gradients, first_moments, second_moments: lists of contiguous tensors, alike entry by entry.
        scalars: (len(weights), 4) float64, rows of :class:`UpdateScalar`.
        adam: (4,) float64, :class:`AdamScalar`; its ``step`` is advanced.
        guard: (flags,) float64 or None.
        guard_index: (len(weights),) int64 on the CPU, which flag belongs to which tensor; None: all have the
            first.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    if kernels := _native(adam):
        kernels.adam_update(
            weights, gradients, first_moments, second_moments, scalars, adam, guard, guard_index
        )
    else:
        reference.adam_update(
            weights, gradients, first_moments, second_moments, scalars, adam, guard, guard_index
        )


def sgd_update(
    weights: list[Tensor],
    gradients: list[Tensor],
    scalars: Tensor,
    guard: Tensor | None = None,
    guard_index: Tensor | None = None,
) -> None:
    """Gradient descent with decoupled decay and soft threshold, on all tensors in one call.

    The guard works as in :func:`adam_update`.

    Args:
        weights, gradients: lists of contiguous tensors, alike entry by entry.
        scalars: (len(weights), 4) float64, rows of :class:`UpdateScalar`.
        guard: (flags,) float64 or None.
        guard_index: (len(weights),) int64 on the CPU, which flag belongs to which tensor; None: all have the
            first.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    if kernels := _native(scalars):
        kernels.sgd_update(weights, gradients, scalars, guard, guard_index)
    else:
        reference.sgd_update(weights, gradients, scalars, guard, guard_index)


def power_iteration(
    weights: Sequence[Tensor], vectors: Sequence[Tensor], sigma_squared: Sequence[Tensor]
) -> None:
    """One step of power iteration towards the largest squared singular value of each matrix.

    Args:
        weights: (rows, columns) each.
        vectors: (columns,) each, of unit norm, in and out.
        sigma_squared: (1,) float64 each, out: ||W^T W v||, which approaches sigma_max(W)^2 from below.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    if kernels := _native(weights[0] if weights else None):
        kernels.power_iteration(weights, vectors, sigma_squared)
    else:
        reference.power_iteration(weights, vectors, sigma_squared)


def memory_update(activation: Tensor, code: Tensor, gram: Tensor, cross: Tensor, scalars: Tensor) -> None:
    """gram <- (1 - forgetting) gram + sum_b a~ a~^T; cross <- (1 - forgetting) cross + sum_b c a~^T.

    With these two matrices a stage remembers all its past data (AM-mem, Choromanska et al. 2019, equation 7).

    Args:
        activation: (B, n), a.
        code: (B, m), c.
        gram: (n, n), or (n + 1, n + 1) where a~ = [a; 1] carries the bias; in and out, both triangles.
        cross: (m, n) or (m, n + 1), in and out.
        scalars: (2,) float64, :class:`MemoryScalar`.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    if kernels := _native(activation):
        kernels.memory_update(activation, code, gram, cross, scalars)
    else:
        reference.memory_update(activation, code, gram, cross, scalars)


def bcd_columns(
    weight: Tensor,
    gram: Tensor,
    cross: Tensor,
    scalars: Tensor,
    sweeps: int = 1,
    has_bias: bool = False,
    nonnegative: bool = False,
) -> None:
    """Block coordinate descent over the columns of W: w_j <- w_j + (b_j - W a_j) / A_jj for j = 0, 1, ...

    Each sweep goes once through the columns, in increasing order (AM-mem, Choromanska et al. 2019, algorithm 3; with
    ``nonnegative`` the HALS update of non-negative matrix factorisation, Cichocki & Phan 2009).

    Args:
        weight: (m, n), W, in and out.
        gram: (n, n), A, symmetric; a column with A_jj <= eps max_k A_kk keeps its w_j.
        cross: (m, n), B.
        scalars: (2,) float64, :class:`MemoryScalar`: after its step w_j is soft-thresholded by threshold / A_jj.
        sweeps: how many.
        has_bias: the last column is the bias, which is neither thresholded nor clipped.
        nonnegative: clip w_j at zero.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, ``sweeps`` is less than 1, or arguments share
            memory.
    """
    if kernels := _native(weight):
        kernels.bcd_columns(weight, gram, cross, scalars, sweeps, has_bias, nonnegative)
    else:
        reference.bcd_columns(weight, gram, cross, scalars, sweeps, has_bias, nonnegative)


def relu_prox(
    activation: Tensor,
    center: Tensor,
    out: Tensor,
    gamma: float,
    beta: float,
    guard: Tensor | None = None,
) -> None:
    """argmin_z gamma (activation - relu(z))^2 + beta (z - center)^2, elementwise.

    The code between a relu's activation and what the layer below gives, for methods that hold both as variables
    (Taylor et al. 2016; Wang et al. 2019, dlADMM). Of two equally good codes it is the positive one.

    Args:
        activation: (B, n).
        center: (B, n).
        out: (B, n), out; may be ``activation`` or ``center``.
        gamma, beta: positive.
        guard: (1,) float64, raised if a result is not finite.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, arguments share memory, or ``gamma`` or ``beta``
            is not positive and finite.
    """
    if kernels := _native(activation):
        kernels.relu_prox(activation, center, out, gamma, beta, guard)
    else:
        reference.relu_prox(activation, center, out, gamma, beta, guard)


def softmax_prox(
    center: Tensor, labels: Tensor, out: Tensor, rho: float, guard: Tensor | None = None
) -> None:
    """argmin_z -log softmax(z)[label] + rho / 2 ||z - center||^2, row by row.

    The output code of methods that hold it as a variable (Wang et al. 2019, dlADMM; Wang et al. 2022, mDLAM), to
    rounding: a scalar equation in the Wright omega function, by Newton's method in float64.

    Args:
        center: (B, C).
        labels: (B,) int64; on a GPU one outside [0, C) makes its row NaN, which raises the guard.
        out: (B, C), out; may be ``center``.
        rho: positive.
        guard: (1,) float64, raised if a result is not finite.

    Raises:
        ValueError: a label outside [0, C) (on the CPU), a wrong shape or device, shared memory, or a ``rho`` that is
            not positive and finite.
        TypeError: a wrong dtype.
    """
    if kernels := _native(center):
        kernels.softmax_prox(center, labels, out, rho, guard)
    else:
        reference.softmax_prox(center, labels, out, rho, guard)


def hinge_prox(
    center: Tensor,
    targets: Tensor,
    multiplier: Tensor,
    out: Tensor,
    beta: float,
    guard: Tensor | None = None,
) -> None:
    """argmin_z l(z, target) + multiplier z + beta (z - center)^2, elementwise.

    With the hinge loss l(z, 1) = max(1 - z, 0), l(z, 0) = max(z, 0): the output code of Taylor et al. (2016).

    Args:
        center: (B, n).
        targets: (B, n), 0 or 1; another one makes its result NaN.
        multiplier: (B, n).
        out: (B, n), out; may be ``center``.
        beta: positive.
        guard: (1,) float64, raised if a result is not finite.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, arguments share memory, or ``beta`` is not
            positive and finite.
    """
    if kernels := _native(center):
        kernels.hinge_prox(center, targets, multiplier, out, beta, guard)
    else:
        reference.hinge_prox(center, targets, multiplier, out, beta, guard)


def convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    code: Tensor,
    activation: Tensor,
    winner: Tensor | None,
    gap: Tensor | None,
    padding: tuple[int, int],
    pool: int,
    sigma: Activation,
    guard: Tensor | None = None,
) -> None:
    """code = the largest of each window of conv(input) + bias; activation = mask * sigma(code).

    Of 16 samples side by side, see :func:`interleave`: G is ceil(B / 16). Strides, dilations and groups are 1.
    Windows of pool x pool do not overlap; what is left over at the right and at the bottom belongs to none.

    Args:
        input: (G, n, H, W, 16).
        weight: (m, n, h, w).
        bias: (m,) or None.
        mask: like ``code``, dropout mask or None.
        code: (G, m, (H + 2 padding[0] - h + 1) // pool, (W + 2 padding[1] - w + 1) // pool, 16), out.
        activation: like ``code``, out; may be ``code``, which then is lost.
        winner: like ``code``, uint8, out: the place of the largest in its window, row by row, the first of equals;
            or None.
        gap: like ``code``, out: the largest minus the second largest of the window; or None.
        padding: zeros on either side of H and of W, fewer than the kernel's extents.
        pool: up to 16; 1 is none, and has neither winner nor gap.
        sigma: the activation; monotone where ``pool`` is more than 1.
        guard: (1,) float64, raised if a code is not finite.

    Raises:
        TypeError, ValueError: an argument does not fit, or arguments share memory.
    """
    if kernels := _native(input):
        kernels.convolve(
            input, weight, bias, mask, code, activation, winner, gap, *padding, pool, sigma.kind,
            sigma.parameter, guard,
        )  # fmt: skip
    else:
        reference.convolve(
            input, weight, bias, mask, code, activation, winner, gap, padding, pool, sigma, guard
        )


def convolution_vjp(
    displacement: Tensor,
    winner: Tensor | None,
    weight: Tensor,
    pulled_back: Tensor,
    padding: tuple[int, int],
    pool: int,
) -> None:
    """pulled_back = the transpose of :func:`convolve`'s convolution, applied to the displacements of the winners.

    Args:
        displacement: like the code of :func:`convolve`.
        winner: as :func:`convolve` has left it; None where ``pool`` is 1.
        weight, padding, pool: as in :func:`convolve`.
        pulled_back: like its input, out.

    Raises:
        TypeError, ValueError: an argument does not fit, or arguments share memory.
    """
    if kernels := _native(displacement):
        kernels.convolution_vjp(displacement, winner, weight, pulled_back, *padding, pool)
    else:
        reference.convolution_vjp(displacement, winner, weight, pulled_back, padding, pool)


def convolution_weight_gradient(
    displacement: Tensor,
    winner: Tensor | None,
    weight: Tensor,
    input_displacement: Tensor | None,
    input: Tensor,
    weight_gradient: Tensor | None,
    bias_gradient: Tensor | None,
    scalars: Tensor,
    below: Tensor | None,
    padding: tuple[int, int],
    pool: int,
    guard: Tensor | None = None,
) -> None:
    """The gradient of a convolutional stage's weight subproblem (equation 6), divided by the stage's scale.

    Its residual is (unit d + unit_below conv(input_displacement)) / scale, where d has the displacement of each code
    at its winner's place, and zeros elsewhere. The residual itself is kept nowhere.

    Args:
        displacement: like the code of :func:`convolve`, in its unit.
        winner: as :func:`convolve` has left it; None where ``pool`` is 1.
        weight, padding, pool: as in :func:`convolve`.
        input_displacement: like its input, in the unit of ``below``; None: zero.
        input: the updated input, sigma of the code below.
        weight_gradient: like the weight, out: sum over samples and places of residual times input; or None.
        bias_gradient: (m,), out: sum over samples and places of the residual; or None.
        scalars: the code's parameter block, a row of :class:`CodeScalar`.
        below: the block of the code below; None: a unit of 1.
        guard: (1,) float64, raised if the residual is not finite.

    Raises:
        TypeError, ValueError: an argument does not fit, or arguments share memory.
    """
    if kernels := _native(displacement):
        kernels.convolution_weight_gradient(
            displacement, winner, weight, input_displacement, input, weight_gradient, bias_gradient, scalars,
            below, *padding, pool, guard,
        )  # fmt: skip
    else:
        reference.convolution_weight_gradient(
            displacement, winner, weight, input_displacement, input, weight_gradient, bias_gradient, scalars,
            below, padding, pool, guard,
        )  # fmt: skip


def interleave(rows: Tensor, lanes: Tensor) -> None:
    """lanes[g, i, l] = rows[16 g + l, i]: from a sample in each row to 16 samples side by side.

    Where there is no sample left, lanes are zero.

    Args:
        rows: (B, n).
        lanes: (ceil(B / 16), n, 16), out.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    if kernels := _native(rows):
        kernels.interleave(rows, lanes)
    else:
        reference.interleave(rows, lanes)


def deinterleave(lanes: Tensor, rows: Tensor) -> None:
    """rows[16 g + l, i] = lanes[g, i, l]: the opposite of :func:`interleave`.

    Args:
        lanes: (ceil(B / 16), n, 16).
        rows: (B, n), out.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    if kernels := _native(lanes):
        kernels.deinterleave(lanes, rows)
    else:
        reference.deinterleave(lanes, rows)


def elman_encode(
    x: Tensor,
    input_weight: Tensor,
    recurrent_weight: Tensor,
    input_bias: Tensor | None,
    recurrent_bias: Tensor | None,
    output_weight: Tensor,
    hidden: Tensor,
    product: Tensor,
    sigma: Activation,
) -> None:
    """h_t = tanh(V x_t + U h_{t-1} + b) from h_0 = 0, and product = W (sigma(h_1), ..., sigma(h_T)).

    The Elman network of Choromanska et al. (2019), appendix C, up to the map W that reads its output sequence.

    Args:
        x: (B, T, n).
        input_weight: (d, n), V.
        recurrent_weight: (d, d), U.
        input_bias, recurrent_bias: (d,) each, whose sum is b, or None.
        output_weight: (m, T d), W.
        hidden: (ceil(B / 16), T, d, 16), out: h with 16 samples side by side; zero beyond the batch.
        product: (B, m), out.
        sigma: the activation of the output sequence.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, or arguments share memory.
    """
    if kernels := _native(x):
        kernels.elman_encode(
            x, input_weight, recurrent_weight, input_bias, recurrent_bias, output_weight, hidden, product,
            sigma.kind, sigma.parameter,
        )  # fmt: skip
    else:
        reference.elman_encode(
            x,
            input_weight,
            recurrent_weight,
            input_bias,
            recurrent_bias,
            output_weight,
            hidden,
            product,
            sigma,
        )


def elman_code_step(
    hidden: Tensor,
    x: Tensor,
    recurrent_weight: Tensor,
    output_weight: Tensor,
    displacement: Tensor,
    residual: Tensor | None,
    cross: Tensor,
    gram: Tensor | None,
    output_gradient: Tensor | None,
    output: Tensor | None,
    scalars: Tensor,
    above: Tensor,
    iterations: int,
    sigma: Activation,
    guard: Tensor | None = None,
) -> None:
    """All gradient steps of an Elman layer's codes, and the sums that its weights are then fitted to.

    The codes c_t of Choromanska et al. (2019), appendix C, move from t = T down to 1, ``iterations`` steps each, once
    the output sequence o has moved: by gradient steps on a loss of W o, which leave it in the row space of W, where
    o0 - o = W^T displacement in the unit of ``above``. With a_t = [h_{t-1}; x_t; 1] at the updated codes,
    ``cross`` is the gradient of the least squares that all c_t = [U V b] a_t are, divided by the scale; once the
    weights have moved by D it is cross + D gram / scale.

    Args:
        hidden: (ceil(B / 16), T, d, 16), h of the encode.
        x: (B, T, n).
        recurrent_weight: (d, d), U.
        output_weight: (m, T d), W.
        displacement: (B, m).
        residual: (B, m), of the map W at the updated output; None without ``output_gradient``.
        cross: (d, d + n + 1), out: the sum of r_t a_t^T over the batch and time, r = ([U V b] a - c) / scale.
        gram: (d + n + 1, d + n + 1), out: the sum of a_t a_t^T; or None.
        output_gradient: (m, T d), out: residual^T o; or None.
        output: (B, T d), out: o; or None.
        scalars: the codes' parameter block, a row of :class:`CodeScalar`; a step size below 0 stands for
            1 / (1 + curvature (1 + sigma_squared)), and there is no threshold.
        above: the block of ``displacement``.
        iterations: of each code.
        sigma: the activation of the output sequence.
        guard: (1,) float64, raised if a displacement is not finite.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit, ``iterations`` is less than 1, or arguments
            share memory.
    """
    if kernels := _native(hidden):
        kernels.elman_code_step(
            hidden, x, recurrent_weight, output_weight, displacement, residual, cross, gram, output_gradient,
            output, scalars, above, iterations, sigma.kind, sigma.parameter, guard,
        )  # fmt: skip
    else:
        reference.elman_code_step(
            hidden, x, recurrent_weight, output_weight, displacement, residual, cross, gram, output_gradient,
            output, scalars, above, iterations, sigma, guard,
        )  # fmt: skip


names = (
    "activate",
    "code_step",
    "sign_flip",
    "softmax_residual",
    "mse_residual",
    "weight_residual",
    "adam_update",
    "sgd_update",
    "power_iteration",
    "memory_update",
    "bcd_columns",
    "relu_prox",
    "softmax_prox",
    "hinge_prox",
    "convolve",
    "convolution_vjp",
    "convolution_weight_gradient",
    "interleave",
    "deinterleave",
    "elman_encode",
    "elman_code_step",
)

__all__ = [
    *names,
    "LANES",
    "Activation",
    "AdamScalar",
    "CodeScalar",
    "MemoryScalar",
    "UpdateScalar",
    "backend",
    "names",
    "native",
    "reference",
    "scalars",
]
