// relu_prox: the code between a linear map's output and a relu's activation
//
//   out = argmin_z  gamma (activation - relu(z))^2 + beta (z - center)^2
//
// z > 0 has a local minimum if the mean of activation and center, with the weights gamma and beta, is positive: that
// mean. z < 0 has one if the center is negative: the center. If there are both, they are equally good at
//
//   activation = -tie center  with  tie = r + sqrt(r (1 + r)),  r = beta / gamma
//
// and for larger activations the mean is better.
//
// Raises the guard if out is not finite. `out` may be `activation` or `center`.
#pragma once

#include <cmath>
#include <cstdint>

#include "backend.h"
#include "platform.h"

namespace altmin {

template <typename T>
struct ReluProx {
  int64_t size;
  const T* activation;
  const T* center;
  T* out;
  double gamma, beta;  // > 0
  double* guard;
};

inline namespace ALTMIN_ISA {

template <typename T>
struct ReluProxMap {
  T of_activation, of_center;  // the weights, which add up to one
  T tie;

  explicit ReluProxMap(const ReluProx<T>& o) {
    const double ratio = o.beta / o.gamma;
    of_activation = static_cast<T>(1 / (1 + ratio));
    of_center = static_cast<T>(1 / (1 + o.gamma / o.beta));
    tie = static_cast<T>(ratio + std::sqrt(ratio) * std::sqrt(1 + ratio));
  }

  // The comparisons are written so that a NaN stays a NaN.
  ALTMIN_HOST_DEVICE T operator()(T activation, T center) const {
    const T mean = of_activation * activation + of_center * center;
    const T right = mean < T(0) ? T(0) : mean;
    const T either = activation < -tie * center ? center : mean;
    return center < T(0) ? either : right;
  }
};

}  // namespace ALTMIN_ISA

}  // namespace altmin

ALTMIN_OP(relu_prox, void, ReluProx)
