// sign_flip: moves a code that is read through a sign to the minimiser of its local objective, without a derivative
//
// As long as all other units keep their signs, the objective is a parabola in the output a of one unit:
//
//   curvature (n mask)^2 (a - target)^2 / 2  with  target = s - downstream p / (curvature n^2 mask)
//   p = unit_above / (moved_above damping_above) * pulled_back
//
// where s = sign(c0) and n is the norm of the unit's column of W. The sign of the target is the better one of -1 and
// +1; its size says by how much. A code within reach of a flip moves to the target:
//
//   delta = c0 - target  where |c0| <= 1 and n mask > 0,  else 0
//
// p is the pulled-back residual as if the code above had moved by a root mean square of one: its real move is so
// short that a flip would never pay. For the same reason the activation, to which the stage above is fitted, stays
// that of the encode. For the top code p is pulled_back, and the parabola is an upper bound of the loss that touches
// it at the encode.
//
// unit = step_taken = 1; moved, scale and damping are as in code_step. Raises the guard if delta is not finite.
// `displacement` may be `pulled_back`; nothing else may overlap.
#pragma once

#include <cstdint>

#include "backend.h"
#include "code_step.h"
#include "platform.h"
#include "scalars.h"

namespace altmin {

template <typename T>
struct SignFlip {
  int64_t size, width;   // size = batch * width
  const T* code;         // c0 (batch, width), the code of the encode
  const T* pulled_back;  // W^T residual of the stage above, in units of the code above
  const T* norm;         // n (width)
  const T* mask;         // dropout mask (batch, width); null: none
  T* displacement;       // delta, out
  CodeScalars* scalars;
  const CodeScalars* above;  // null for the top code
  double* guard;
};

inline namespace ALTMIN_ISA {

template <typename T>
ALTMIN_HOST_DEVICE inline double unit_of(const SignFlip<T>&) {
  return 1.0;
}

template <typename T>
ALTMIN_HOST_DEVICE inline double step_of(const SignFlip<T>&) {
  return 1.0;
}

// The factor of pulled_back.
template <typename T>
ALTMIN_HOST_DEVICE inline T pull_factor(const SignFlip<T>& o) {
  double incoming = 1.0;
  if (o.above) incoming = o.above->moved > 0 ? o.above->unit / (o.above->moved * o.above->damping) : 0.0;
  return static_cast<T>(o.scalars->downstream * incoming / o.scalars->curvature);
}

template <typename T>
ALTMIN_HOST_DEVICE inline T flip_displacement(T code, T pull, T norm, T mask) {
  const T strength = norm * mask;
  const T target = (code > T(0) ? T(1) : T(-1)) - pull / strength / norm;
  const bool stays = (code > T(1)) | (code < T(-1)) | (strength == T(0));  // a NaN does not stay
  return stays ? T(0) : code - target;
}

}  // namespace ALTMIN_ISA

}  // namespace altmin

ALTMIN_OP(sign_flip, void, SignFlip)
