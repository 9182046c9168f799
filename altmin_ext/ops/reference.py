"""The twin of every op in plain torch: documentation, oracle, and what runs where no kernel does.

Each function has the arguments of its namesake in :mod:`altmin_ext.ops` and works in place like it, on any device,
without synchronising it (the checks of labels apart).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from altmin_ext.ops.activation import Activation, sign
from altmin_ext.ops.scalars import AdamScalar, CodeScalar, MemoryScalar, UpdateScalar

smallest_displacement = 1e-8  # of the top code: below it, stages are scaled down with it


def _raise_unless_finite(guard: Tensor | None, value: Tensor) -> None:
    if guard is not None:
        guard.logical_or_(~torch.isfinite(value))


def soft_threshold(x: Tensor, threshold: Tensor | float) -> Tensor:
    """argmin_u threshold |u| + (u - x)^2 / 2."""
    return torch.sign(x) * torch.relu(x.abs() - threshold)


def activate(
    code: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    activation: Tensor,
    sigma: Activation,
    guard: Tensor | None,
) -> None:
    if bias is not None:
        code += bias
    _raise_unless_finite(guard, code.double().square().sum())
    a = sigma.value(code)
    activation.copy_(a if mask is None else a * mask)


def _conclude(displacement: Tensor, scalars: Tensor, above: Tensor | None, guard: Tensor | None) -> None:
    """Leaves in a code's parameter block what its step has made of it."""
    s = CodeScalar
    square = displacement.double().square().sum()
    normalised = scalars[s.normalised] > 0
    count = displacement.numel() * torch.where(normalised, scalars[s.normalised], 1.0)
    rms = (square / count.clamp(min=1)).sqrt()
    own = torch.where(rms > 0, (smallest_displacement / rms).clamp(min=1.0), 1.0)
    scalars[s.damping] = own if above is None else above[s.damping]
    scalars[s.moved] = scalars[s.unit] * rms
    scalars[s.scale] = torch.where(
        normalised & (rms > 0), scalars[s.unit] * rms * scalars[s.damping], scalars[s.unit]
    )
    _raise_unless_finite(guard, square)


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
    guard: Tensor | None,
    gap: Tensor | None,
) -> None:
    s = CodeScalar
    if first:
        pulled_back = pulled_back.clone()  # which the displacement may be
        displacement.zero_()
        one = torch.ones_like(scalars[s.unit])
        scalars[s.unit] = one if above is None else torch.where(scalars[s.threshold] > 0, one, above[s.scale])
        auto = 1 / (1 + scalars[s.curvature] * scalars[s.sigma_squared])
        scalars[s.step_taken] = torch.where(scalars[s.step_size] >= 0, scalars[s.step_size], auto)
        if velocity is not None:
            velocity.zero_()
    unit, eta = scalars[s.unit], scalars[s.step_taken]
    incoming = 1.0 if above is None else above[s.unit] / unit

    m = 1.0 if mask is None else mask
    c = code - unit * displacement
    downstream = incoming * pulled_back
    if pulled_back_change is not None:
        downstream = downstream + pulled_back_change
    g = scalars[s.downstream] * downstream * m * sigma.derivative(c) - scalars[s.anchor] * displacement
    v = g
    if velocity is not None:
        v = velocity.mul_(scalars[s.momentum]).add_(g)
    displacement += eta * (g + scalars[s.momentum] * v)

    shrunk = (code - soft_threshold(code - unit * displacement, eta * scalars[s.threshold])) / unit
    displacement.copy_(torch.where(scalars[s.threshold] > 0, shrunk, displacement))
    moved = displacement
    if gap is not None:
        moved = torch.where(unit * displacement > gap, gap / unit, displacement)
    if activation_displacement is not None:
        activation_displacement.copy_(m * sigma.difference(code, moved, unit))
    activation.copy_(m * sigma.value(code - unit * moved))

    _conclude(displacement, scalars, above, guard)


def sign_flip(
    code: Tensor,
    pulled_back: Tensor,
    norm: Tensor,
    mask: Tensor | None,
    displacement: Tensor,
    scalars: Tensor,
    above: Tensor | None,
    guard: Tensor | None,
) -> None:
    s = CodeScalar
    scalars[s.unit] = scalars[s.step_taken] = 1.0
    incoming = torch.ones_like(scalars[s.unit])
    if above is not None:
        incoming = torch.where(above[s.moved] > 0, above[s.unit] / (above[s.moved] * above[s.damping]), 0.0)
    strength = norm if mask is None else norm * mask
    pull = scalars[s.downstream] * incoming / scalars[s.curvature] * pulled_back
    target = sign(code) - pull / strength / norm
    stays = (code.abs() > 1) | (strength == 0)
    displacement.copy_(torch.where(stays, 0, code - target))
    _conclude(displacement, scalars, above, guard)


def softmax_residual(
    logits: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    residual: Tensor,
    bias_gradient: Tensor | None,
    loss: Tensor,
    correct: Tensor,
    guard: Tensor | None,
) -> None:
    classes = logits.shape[1]
    outside = (labels < 0) | (labels >= classes)
    if labels.device.type == "cpu" and outside.any():
        first = int(outside.nonzero()[0, 0])
        raise ValueError(f"y must lie in [0, {classes}), but y[{first}] is {int(labels[first])}.")
    z = logits if bias is None else logits + bias
    inside = labels.clamp(0, classes - 1)
    loss.copy_(torch.where(outside.any(), torch.nan, F.cross_entropy(z, inside)))
    correct.copy_((z.argmax(1) == labels).sum())
    residual.copy_(z.softmax(1) - F.one_hot(inside, classes))
    if bias_gradient is not None:
        torch.sum(residual, 0, out=bias_gradient)
    _raise_unless_finite(guard, loss)


def mse_residual(
    logits: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    residual: Tensor,
    bias_gradient: Tensor | None,
    loss: Tensor,
    guard: Tensor | None,
) -> None:
    z = logits if bias is None else logits + bias
    loss.copy_(F.mse_loss(z, targets))
    residual.copy_((2 / logits.shape[1]) * (z - targets))
    if bias_gradient is not None:
        torch.sum(residual, 0, out=bias_gradient)
    _raise_unless_finite(guard, loss)


def weight_residual(
    displacements: Sequence[Tensor],
    products: Sequence[Tensor | None],
    biases: Sequence[Tensor | None],
    codes: Sequence[Tensor | None],
    residuals: Sequence[Tensor],
    bias_gradients: Sequence[Tensor | None],
    scalars: Sequence[Tensor],
    below: Sequence[Tensor | None],
    guard: Tensor | None,
) -> None:
    flags = [None if guard is None else guard[i : i + 1] for i in range(len(displacements))]
    stages = zip(
        displacements, products, biases, codes, residuals, bias_gradients, scalars, below, flags, strict=True
    )
    for stage in stages:
        _stage_residual(*stage)


def _stage_residual(
    displacement: Tensor,
    product: Tensor | None,
    bias: Tensor | None,
    code: Tensor | None,
    residual: Tensor,
    bias_gradient: Tensor | None,
    scalars: Tensor,
    below: Tensor | None,
    guard: Tensor | None,
) -> None:
    s = CodeScalar
    fit = torch.zeros_like(displacement) if product is None else product
    fit = fit if bias is None else fit + bias
    fit = fit if code is None else fit - code
    factor = 1.0 if below is None else below[s.unit]
    residual.copy_((scalars[s.unit] * displacement + factor * fit) / scalars[s.scale])
    if bias_gradient is not None:
        torch.sum(residual, 0, out=bias_gradient)
    scalars[s.residual_square] = residual.double().square().sum()
    _raise_unless_finite(guard, scalars[s.residual_square])


def _keep_finite(weight: Tensor, new: Tensor, other_new: Tensor, guard: Tensor | None, index: int) -> Tensor:
    """Where the update may be taken: everything in it is finite. Raises the tensor's flag elsewhere."""
    finite = torch.isfinite(new) & torch.isfinite(other_new)
    if guard is not None:
        guard[index] = torch.maximum(guard[index], (~finite.all()).to(guard.dtype))
    return finite


def _go(guard: Tensor | None) -> Tensor | bool:
    return True if guard is None else ~(guard != 0).any()


def adam_update(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    first_moments: Sequence[Tensor],
    second_moments: Sequence[Tensor],
    scalars: Tensor,
    adam: Tensor,
    guard: Tensor | None,
    guard_index: Tensor | None,
) -> None:
    go = _go(guard)
    beta1, beta2, epsilon = adam[AdamScalar.beta1], adam[AdamScalar.beta2], adam[AdamScalar.epsilon]
    adam[AdamScalar.step] += go
    t = adam[AdamScalar.step].clamp(min=1)
    indices = [0] * len(weights) if guard_index is None else guard_index.tolist()
    rows = zip(weights, gradients, first_moments, second_moments, scalars, indices, strict=True)
    for w, gradient, m, v, row, index in rows:
        lr = row[UpdateScalar.learning_rate]
        g = row[UpdateScalar.gradient_factor] * gradient
        new_m = beta1 * m + (1 - beta1) * g
        new_v = beta2 * v + (1 - beta2) * g * g
        step = lr / (1 - beta1**t) * new_m / (new_v.sqrt() / (1 - beta2**t).sqrt() + epsilon)
        new_w = (1 - lr * row[UpdateScalar.decay]) * w - step
        new_w = soft_threshold(new_w, lr * row[UpdateScalar.threshold])
        take = _keep_finite(w, new_w, new_v, guard, index) & go
        for old, new in ((w, new_w), (m, new_m), (v, new_v)):
            old.copy_(torch.where(take, new, old))


def sgd_update(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    scalars: Tensor,
    guard: Tensor | None,
    guard_index: Tensor | None,
) -> None:
    go = _go(guard)
    indices = [0] * len(weights) if guard_index is None else guard_index.tolist()
    for w, gradient, row, index in zip(weights, gradients, scalars, indices, strict=True):
        lr = row[UpdateScalar.learning_rate]
        new_w = (1 - lr * row[UpdateScalar.decay]) * w - lr * row[UpdateScalar.gradient_factor] * gradient
        new_w = soft_threshold(new_w, lr * row[UpdateScalar.threshold])
        take = _keep_finite(w, new_w, new_w, guard, index) & go
        w.copy_(torch.where(take, new_w, w))


def power_iteration(
    weights: Sequence[Tensor], vectors: Sequence[Tensor], sigma_squared: Sequence[Tensor]
) -> None:
    for weight, vector, square in zip(weights, vectors, sigma_squared, strict=True):
        t = weight.T @ (weight @ vector)
        norm = t.double().norm()
        square.copy_(norm)
        moved = (norm > 0) & torch.isfinite(norm)
        vector.copy_(torch.where(moved, t / norm.to(t.dtype), vector))


def memory_update(activation: Tensor, code: Tensor, gram: Tensor, cross: Tensor, scalars: Tensor) -> None:
    if len(gram) > activation.shape[1]:
        activation = F.pad(activation, (0, 1), value=1.0)
    forgetting = scalars[MemoryScalar.forgetting]
    gram.copy_((gram - forgetting * gram) + activation.T @ activation)
    cross.copy_((cross - forgetting * cross) + code.T @ activation)


def bcd_columns(
    weight: Tensor,
    gram: Tensor,
    cross: Tensor,
    scalars: Tensor,
    sweeps: int,
    has_bias: bool,
    nonnegative: bool,
) -> None:
    if len(gram) == 0:
        return
    diagonal = gram.diagonal()
    smallest = torch.finfo(gram.dtype).eps * diagonal.max()
    for _ in range(sweeps):
        for j in range(len(gram)):
            w = weight[:, j] + (cross[:, j] - weight @ gram[:, j]) / diagonal[j]
            if not (has_bias and j == len(gram) - 1):
                w = soft_threshold(w, scalars[MemoryScalar.threshold] / diagonal[j])
                w = torch.relu(w) if nonnegative else w
            weight[:, j] = torch.where(diagonal[j] <= smallest, weight[:, j], w)


def relu_prox(
    activation: Tensor, center: Tensor, out: Tensor, gamma: float, beta: float, guard: Tensor | None
) -> None:
    def objective(z: Tensor) -> Tensor:
        return gamma * (activation - torch.relu(z)) ** 2 + beta * (z - center) ** 2

    right = torch.relu((gamma * activation + beta * center) / (gamma + beta))
    out.copy_(torch.where((center < 0) & (objective(center) < objective(right)), center, right))
    _raise_unless_finite(guard, (out * 0).sum())


def _wright_omega(x: Tensor) -> Tensor:
    """omega + log omega = x."""
    middle = x.clamp(min=-40)
    log_x = middle.clamp(min=1).log()
    small, large = torch.exp(torch.minimum(middle, 2 * (middle - 1) / 3)), middle - log_x + log_x / middle
    omega = torch.where(middle < 1, small, large)
    for _ in range(2):
        r = middle - omega - omega.log()
        a = 2 * (1 + omega) * (1 + omega + 2 * r / 3)
        omega = omega + omega * r * (a - r) / ((1 + omega) * (a - 2 * r))
    return torch.where(x < -40, x.exp(), omega)


def softmax_prox(center: Tensor, labels: Tensor, out: Tensor, rho: float, guard: Tensor | None) -> None:
    classes = center.shape[1]
    outside = (labels < 0) | (labels >= classes)
    if labels.device.type == "cpu" and outside.any():
        first = int(outside.nonzero()[0, 0])
        raise ValueError(f"y must lie in [0, {classes}), but y[{first}] is {int(labels[first])}.")
    v = center.double()
    index = labels.clamp(0, classes - 1).unsqueeze(1)
    of_label = torch.where(outside.unsqueeze(1), torch.nan, v.gather(1, index))
    difference = v - of_label
    others = torch.ones_like(v).scatter_(1, index, 0)
    # The loss at the minimiser, by Newton's method; so many steps that none has to be waited for.
    loss = torch.relu(difference.amax(1, keepdim=True) - 2 / rho)
    for _ in range(40):
        rise, rise_slope = -torch.expm1(-loss) / rho, torch.exp(-loss) / rho
        omega = others * _wright_omega(difference - math.log(rho) - rise - loss)
        slope = (omega / (1 + omega)).sum(1, keepdim=True) * (1 + rise_slope) + rise_slope
        loss = loss + (omega.sum(1, keepdim=True) - rise) / slope
    rise = -torch.expm1(-loss) / rho
    omega = others * _wright_omega(difference - math.log(rho) - rise - loss)
    out.copy_(v - omega + (1 - others) * rise)
    _raise_unless_finite(guard, (out * 0).sum())


def hinge_prox(
    center: Tensor, targets: Tensor, multiplier: Tensor, out: Tensor, beta: float, guard: Tensor | None
) -> None:
    flat = center - multiplier / (2 * beta)
    lower, upper = flat - (1 - targets) / (2 * beta), flat + targets / (2 * beta)
    result = torch.clamp(targets, lower, upper)
    out.copy_(torch.where((targets == 0) | (targets == 1), result, torch.nan))
    _raise_unless_finite(guard, (out * 0).sum())


def _images(lanes: Tensor) -> Tensor:
    """(16 G, channels, height, width) of what lies in lanes, (G, channels, height, width, 16)."""
    return lanes.permute(0, 4, 1, 2, 3).flatten(0, 1)


def _lanes(images: Tensor) -> Tensor:
    return images.unflatten(0, (-1, 16) if len(images) else (0, 16)).permute(0, 2, 3, 4, 1)


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
    guard: Tensor | None,
) -> None:
    convolved = _lanes(F.conv2d(_images(input), weight, bias, padding=padding))
    height, width = code.shape[2:4]
    windows = convolved[:, :, : height * pool, : width * pool]
    windows = (
        windows.unflatten(3, (width, pool)).unflatten(2, (height, pool)).movedim((3, 5), (5, 6)).flatten(5)
    )
    largest, place = windows.max(-1)
    code.copy_(largest)
    if winner is not None:
        winner.copy_(place)
    if gap is not None:
        others = windows.scatter(-1, place.unsqueeze(-1), -torch.inf)
        gap.copy_(largest - others.amax(-1))
    _raise_unless_finite(guard, (largest - largest).sum())
    a = sigma.value(largest)
    activation.copy_(a if mask is None else a * mask)


def _at_winners(displacement: Tensor, winner: Tensor | None, pool: int, height: int, width: int) -> Tensor:
    """(G, m, height, width, 16): between convolution and pooling, zeros but where the winners are."""
    if winner is None:
        return displacement
    windows = displacement.new_zeros(*displacement.shape, pool * pool)
    windows.scatter_(-1, winner.long().unsqueeze(-1), displacement.unsqueeze(-1))
    rows, columns = displacement.shape[2:4]
    grid = windows.unflatten(-1, (pool, pool)).movedim((5, 6), (3, 5)).flatten(4, 5).flatten(2, 3)
    return F.pad(grid, (0, 0, 0, width - columns * pool, 0, height - rows * pool))


def convolution_vjp(
    displacement: Tensor,
    winner: Tensor | None,
    weight: Tensor,
    pulled_back: Tensor,
    padding: tuple[int, int],
    pool: int,
) -> None:
    height, width = (
        n + 2 * p - k + 1 for n, p, k in zip(pulled_back.shape[2:4], padding, weight.shape[2:], strict=True)
    )
    expanded = _at_winners(displacement, winner, pool, height, width)
    pulled_back.copy_(_lanes(F.conv_transpose2d(_images(expanded), weight, padding=padding)))


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
    guard: Tensor | None,
) -> None:
    s = CodeScalar
    height, width = (
        n + 2 * p - k + 1 for n, p, k in zip(input.shape[2:4], padding, weight.shape[2:], strict=True)
    )
    scale = scalars[s.scale]
    residual = scalars[s.unit] / scale * _images(_at_winners(displacement, winner, pool, height, width))
    if input_displacement is not None:
        unit_below = 1.0 if below is None else below[s.unit]
        moved = F.conv2d(_images(input_displacement), weight, padding=padding)
        residual = residual + unit_below / scale * moved
    if weight_gradient is not None:
        weight_gradient.copy_(conv2d_weight(_images(input), list(weight.shape), residual, padding=padding))
    if bias_gradient is not None:
        bias_gradient.copy_(residual.sum((0, 2, 3)))
    scalars[s.residual_square] = residual.double().square().sum()
    _raise_unless_finite(guard, scalars[s.residual_square])


def interleave(rows: Tensor, lanes: Tensor) -> None:
    groups, width, side = lanes.shape
    filled = F.pad(rows, (0, 0, 0, groups * side - len(rows)))
    lanes.copy_(filled.view(groups, side, width).transpose(1, 2))


def deinterleave(lanes: Tensor, rows: Tensor) -> None:
    groups, width, side = lanes.shape
    rows.copy_(lanes.transpose(1, 2).reshape(groups * side, width)[: len(rows)])


def _sequences_of(hidden: Tensor, batch: int) -> Tensor:
    """(B, T, d) of what lies in lanes, (groups, T, d, 16)."""
    return hidden.permute(0, 3, 1, 2).flatten(0, 1)[:batch]


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
    batch, steps, _ = x.shape
    h = x.new_zeros(batch, len(recurrent_weight))
    sequence = x.new_zeros(batch, steps, len(recurrent_weight))
    for t in range(steps):
        c = x[:, t] @ input_weight.T + h @ recurrent_weight.T
        for bias in (input_bias, recurrent_bias):
            c = c if bias is None else c + bias
        sequence[:, t] = h = torch.tanh(c)
    filled = F.pad(sequence, (0, 0, 0, 0, 0, 16 * len(hidden) - batch))
    hidden.copy_(filled.unflatten(0, (-1, 16)).permute(0, 2, 3, 1))
    product.copy_(sigma.value(sequence).flatten(1) @ output_weight.T)


def _hidden_difference(h0: Tensor, delta: Tensor, unit: Tensor) -> Tensor:
    """(tanh(c0 - unit delta) - tanh(c0)) / unit of h0 = tanh(c0), by the addition theorem."""
    tanh = torch.tanh(unit * delta)
    step = torch.where((unit * delta) ** 2 < torch.finfo(h0.dtype).eps, delta, tanh / unit)
    return -step * (1 - h0 * h0) / (1 - h0 * tanh)


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
    guard: Tensor | None,
) -> None:
    s = CodeScalar
    batch, steps, _ = x.shape
    h0 = _sequences_of(hidden, batch)
    pulled_back = (displacement @ output_weight).view(h0.shape)
    o = sigma.value(h0) - above[s.unit] * pulled_back

    unit = scalars[s.unit] = above[s.scale]
    auto = 1 / (1 + scalars[s.curvature] * (1 + scalars[s.sigma_squared]))
    eta = scalars[s.step_taken] = torch.where(scalars[s.step_size] >= 0, scalars[s.step_size], auto)
    delta, moved = torch.zeros_like(h0), torch.zeros_like(h0)  # moved: (h - h0) / unit
    for t in reversed(range(steps)):
        v = torch.zeros_like(h0[:, t])
        for _ in range(iterations):
            h = h0[:, t] + unit * moved[:, t]
            difference = sigma.difference(h0[:, t], -moved[:, t], unit)
            p = (difference + above[s.unit] / unit * pulled_back[:, t]) * sigma.derivative(h)
            if t + 1 < steps:
                p = p + (moved[:, t] @ recurrent_weight.T + delta[:, t + 1]) @ recurrent_weight
            g = scalars[s.downstream] * p * (1 - h * h) - scalars[s.anchor] * delta[:, t]
            v = scalars[s.momentum] * v + g
            delta[:, t] += eta * (g + scalars[s.momentum] * v)
            moved[:, t] = _hidden_difference(h0[:, t], delta[:, t], unit)

    _conclude(delta, scalars, above, guard)

    before = F.pad(moved, (0, 0, 1, 0))[:, :steps]  # of h_{t-1}
    r = unit / scalars[s.scale] * (delta + before @ recurrent_weight.T)
    scalars[s.residual_square] = r.double().square().sum()
    h = F.pad(h0 + unit * moved, (0, 0, 1, 0))[:, :steps]
    a = torch.cat([h, x, torch.ones_like(x[..., :1])], 2).flatten(0, 1)
    cross.copy_(r.flatten(0, 1).T @ a)
    if gram is not None:
        gram.copy_(a.T @ a)
    if output_gradient is not None:
        assert residual is not None
        output_gradient.copy_(residual.T @ o.flatten(1))
    if output is not None:
        output.copy_(o.flatten(1))
