// code_step: one gradient step of a code on its local objective, per element
//
//   c      = c0 - unit delta
//   p      = unit_above / scale_above * pulled_back + pulled_back_change
//   g      = downstream p mask sigma'(c) - anchor delta
//   v      = momentum v + g
//   delta <- delta + eta (g + momentum v);  with a threshold also c <- soft(c, eta threshold)
//   activation              = mask sigma(c0 - unit delta)
//   activation_displacement = mask (sigma(c0 - unit delta) - sigma(c0)) / unit
//
// with eta = step_size, or 1 / (1 + curvature sigma_squared). On the first iteration delta = v = 0 and
// unit = scale_above (1 for the top code, and with a threshold). Afterwards scale = unit * RMS(delta) * damping if
// normalised, else unit; damping is 1 as long as the top code moves by smallest_displacement, and keeps a loss of
// zero from being blown up into steps of full size. Raises the guard when delta is not finite.
//
// On the first iteration `displacement` may be `pulled_back`. With relu and the identity, where a single
// iteration without threshold is all, `code` may hold sigma(c0) instead of c0, since a unit at rest has no
// derivative and stays there, and `activation` may be `code`. Nothing else may overlap.
#pragma once

#include <cstdint>

#include "activation.h"
#include "backend.h"
#include "scalars.h"

namespace altmin {

// Below it the displacement of the top code is scaled down with it: what Adam's epsilon is to a gradient.
inline constexpr double smallest_displacement = 1e-8;

template <typename T>
struct CodeStep {
  int64_t size;                 // batch * width
  const T* code;                // c0, the code of the encode
  const T* pulled_back;         // W^T residual of the stage above, in units of the code above
  const T* pulled_back_change;  // W^T W (a - a0), in units of this code; null: none
  const T* mask;                // dropout mask; null: none
  T* displacement;              // delta, in and out; only out on the first iteration
  T* velocity;                  // v, likewise; null: no momentum, or a single iteration
  T* activation;                // out
  T* activation_displacement;   // out, or null
  CodeScalars* scalars;
  const CodeScalars* above;  // null for the top code
  bool first;
  Activation kind;
  T parameter;
  double* guard;
};

}  // namespace altmin

ALTMIN_OP(code_step, void, CodeStep)
