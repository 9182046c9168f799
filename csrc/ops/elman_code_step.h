// elman_code_step: gradient steps of an Elman layer's codes on their local objectives, and the sums to which its
// weights and those of the linear map that reads it are then fitted
//
//   o   = phi(h0) - unit_above W^T s                the output sequence, after its own steps
//   c_t = c0_t - unit delta_t,  h_t = tanh(c_t)     the codes; c0 and h0 are those of the encode
//
// For t = T, ..., 1, `iterations` times from delta_t = v = 0, without the second term of p at T:
//
//   p       = (phi(h_t) - o_t) / unit phi'(h_t) + U^T (U (h_t - h0_t) / unit + delta_{t+1})
//   g       = downstream p (1 - h_t^2) - anchor delta_t
//   v       = momentum v + g
//   delta_t = delta_t + eta (g + momentum v)
//
// with eta = step_size, or 1 / (1 + curvature (1 + sigma_squared)), since both the output sequence and U read a
// hidden state. unit = scale_above, and scale is that of code_step. Then
//
//   r_t   = (unit delta_t + U (h_{t-1} - h0_{t-1})) / scale,   a_t = [h_{t-1}; x_t; 1]
//   cross = sum of r_t a_t^T,  gram = sum of a_t a_t^T         over the batch and t = 1..T
//   output_gradient = residual^T o
//
// where r_t = ([U V b] a_t - c_t) / scale. Thus cross is the gradient of the weights' least squares; after the
// weights have moved by D, it is cross + D gram / scale. Writes the sum of squares of r to the scalars, and raises
// the guard if delta is not finite. Nothing may overlap.
#pragma once

#include <cstdint>

#include "code_step.h"
#include "lanes.h"

namespace altmin {

template <typename T>
struct ElmanCodeStep {
  int64_t size;  // batch * steps * width
  int64_t batch, steps, n_in, width, n_out;
  const T* hidden;            // h0 (groups_of(batch), steps, width, 16)
  const T* x;                 // (batch, steps, n_in)
  const T* recurrent_weight;  // U (width, width)
  const T* output_weight;     // W (n_out, steps * width)
  const T* displacement;      // s (batch, n_out)
  const T* residual;          // (batch, n_out), of the map that reads o; null without output_gradient
  T* cross;                   // (width, width + n_in + 1), out
  T* gram;                    // (width + n_in + 1, width + n_in + 1), out, or null
  T* output_gradient;         // (n_out, steps * width), out, or null
  T* output;                  // o (batch, steps * width), out, or null
  CodeScalars* scalars;
  const CodeScalars* above;  // of s
  int iterations;
  Activation kind;  // phi
  T parameter;
  double* guard;

  static constexpr bool first = true;  // one call makes all iterations
};

inline namespace ALTMIN_ISA {

// There is no threshold that would need a unit of one.
template <typename T>
ALTMIN_HOST_DEVICE inline double unit_of(const ElmanCodeStep<T>& o) {
  return o.above->scale;
}

template <typename T>
ALTMIN_HOST_DEVICE inline double step_of(const ElmanCodeStep<T>& o) {
  const CodeScalars& s = *o.scalars;
  return s.step_size >= 0 ? s.step_size : 1.0 / (1.0 + s.curvature * (1.0 + s.sigma_squared));
}

// (tanh(c0 - unit delta) - tanh(c0)) / unit from h0 = tanh(c0), by the addition theorem.
template <typename T>
ALTMIN_HOST_DEVICE inline T hidden_difference(T h0, T delta, T unit) {
  const T d = unit * delta, tanh = hyperbolic_tangent(d);
  const T step = d * d < std::numeric_limits<T>::epsilon() ? delta : tanh / unit;
  return -step * (T(1) - h0 * h0) / (T(1) - h0 * tanh);
}

// The same without a division, for unit delta within this bound, where the series are exact up to rounding.
template <typename T>
inline constexpr T small_hidden_displacement = sizeof(T) == 4 ? T(1e-2) : T(6e-5);

template <typename T>
ALTMIN_HOST_DEVICE inline T small_hidden_difference(T h0, T delta, T unit) {
  const T d = unit * delta, of_tanh = T(1) - d * d / T(3), x = h0 * d * of_tanh;
  return -delta * of_tanh * (T(1) - h0 * h0) * ((T(1) + x) * (T(1) + x * x));  // 1 / (1 - x)
}

}  // namespace ALTMIN_ISA

}  // namespace altmin

ALTMIN_WIDE_OP(elman_code_step, void, ElmanCodeStep)
