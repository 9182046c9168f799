// code_step: one gradient step of a code on its local objective, per element
//
//   c      = c0 - unit delta
//   p      = unit_above / unit * pulled_back + pulled_back_change
//   g      = downstream p mask sigma'(c) - anchor delta
//   v      = momentum v + g
//   delta <- delta + eta (g + momentum v);  with a threshold also c <- soft(c, eta threshold)
//   activation              = mask sigma(c0 - fall)
//   activation_displacement = mask (sigma(c0 - fall) - sigma(c0)) / unit,  fall = min(unit delta, gap)
//
// with eta = step_size, or 1 / (1 + curvature sigma_squared). On the first iteration delta = v = 0, and
// unit = scale_above, or 1 for the top code and with a threshold; unit_above / unit is 1 for the top code.
//
// Afterwards moved = unit * RMS(delta). If normalised > 0, the mean in RMS is over normalised times as many numbers
// as are held, since a code may hold only some of its numbers, and scale = moved * damping; otherwise scale = unit.
// damping is set by the top code for all codes. It is 1 if the top code moves by at least smallest_displacement, and
// keeps a loss near zero from being scaled up into steps of full size. Raises the guard if delta is not finite.
//
// On the first iteration `displacement` may be `pulled_back`. With relu and the identity, and a single iteration
// without threshold, `code` may hold sigma(c0) instead of c0, since a unit at 0 has no derivative and does not move;
// `activation` may then be `code`. Nothing else may overlap.
#pragma once

#include <cstdint>

#include "activation.h"
#include "backend.h"
#include "platform.h"
#include "scalars.h"

namespace altmin {

// RMS displacement of the top code below which weight objectives shrink with it, as gradients do below Adam's
// epsilon.
inline constexpr double smallest_displacement = 1e-8;

template <typename T>
struct CodeStep {
  int64_t size;                 // batch * width
  const T* code;                // c0, the code of the encode
  const T* pulled_back;         // W^T residual of the stage above, in units of the code above
  const T* pulled_back_change;  // W^T W (a - a0), in units of this code; null: none
  const T* mask;                // dropout mask; null: none
  T* displacement;              // delta, in and out; only out on the first iteration
  T* velocity;                  // v, like delta; null: no momentum, or a single iteration
  T* activation;                // out
  T* activation_displacement;   // out, or null
  CodeScalars* scalars;
  const CodeScalars* above;  // null for the top code
  bool first;
  Activation kind;
  T parameter;
  double* guard;
  const T* gap;  // how far a code may fall before another one in its window is larger; null: without bound
};

// The scalars of the formula, the same on every device and in every op that moves codes.
inline namespace ALTMIN_ISA {

// The unit of this step; scalars->unit is that of the last step until conclude has been called.
template <template <typename> typename Step, typename T>
ALTMIN_HOST_DEVICE inline double unit_of(const Step<T>& o) {
  if (!o.first) return o.scalars->unit;
  // A thresholded code is exactly zero only if c0 - unit (c0 / unit) has no rounding.
  return o.above && !(o.scalars->threshold > 0) ? o.above->scale : 1.0;
}

template <typename T>
ALTMIN_HOST_DEVICE inline double step_of(const CodeStep<T>& o) {
  const CodeScalars& s = *o.scalars;
  if (!o.first) return s.step_taken;
  return s.step_size >= 0 ? s.step_size : 1.0 / (1.0 + s.curvature * s.sigma_squared);
}

template <typename T>
struct CodeStepFactors {
  T eta, unit, pulled_back, pulled_back_change, anchor, momentum, threshold;
};

template <template <typename> typename Step, typename T>
ALTMIN_HOST_DEVICE inline CodeStepFactors<T> factors_of(const Step<T>& o) {
  const CodeScalars& s = *o.scalars;
  const double unit = unit_of(o), incoming = o.above ? o.above->unit / unit : 1.0;
  return {static_cast<T>(step_of(o)),   static_cast<T>(unit),     static_cast<T>(s.downstream * incoming),
          static_cast<T>(s.downstream), static_cast<T>(s.anchor), static_cast<T>(s.momentum),
          static_cast<T>(s.threshold)};
}

// Writes the results of the step to the scalars, given the sum of squares of the displacement.
template <template <typename> typename Step, typename T>
ALTMIN_HOST_DEVICE inline void conclude(const Step<T>& o, double square) {
  CodeScalars& s = *o.scalars;
  const double unit = unit_of(o), step = step_of(o);
  const double count = static_cast<double>(o.size) * (s.normalised > 0 ? s.normalised : 1.0);
  const double rms = count > 0 ? std::sqrt(square / count) : 0.0;
  const double own = smallest_displacement > rms && rms > 0 ? smallest_displacement / rms : 1.0;
  s.unit = unit;
  s.step_taken = step;
  s.damping = o.above ? o.above->damping : own;
  s.moved = unit * rms;
  s.scale = s.normalised > 0 && rms > 0 ? unit * rms * s.damping : unit;
}

}  // namespace ALTMIN_ISA

}  // namespace altmin

ALTMIN_WIDE_OP(code_step, void, CodeStep)
