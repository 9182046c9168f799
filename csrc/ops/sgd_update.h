// sgd_update: gradient descent with decoupled decay and a soft threshold, on many tensors in one call
//
//   w <- soft((1 - lr decay) w - lr gradient_factor * gradient, lr threshold)
//
// All or nothing, as adam_update: if a weight would not be finite, nothing is written but the flags of the tensors that
// have one; where a weight is not finite beforehand, the flag goes up while the others move. Does nothing if a flag of
// the guard is raised. Nothing may overlap.
#pragma once

#include <cstdint>
#include <vector>

#include "backend.h"
#include "platform.h"
#include "scalars.h"
#include "update.h"

namespace altmin {

template <typename T>
struct SgdTensor {
  int64_t size;
  T* weight;
  const T* gradient;
  const UpdateScalars* scalars;
  double* guard;
};

template <typename T>
struct SgdUpdate {
  std::vector<SgdTensor<T>> tensors;
  const double* guard;  // (guards) flags of the whole step
  int64_t guards;
};

inline namespace ALTMIN_ISA {

// The scalars of the formula, the same on every device.
template <typename T>
struct SgdFactors {
  T keep, step, threshold;
  T largest;  // absolute value of a gradient that surely leaves all weights finite
};

template <typename T>
ALTMIN_HOST_DEVICE inline SgdFactors<T> factors_of(const UpdateScalars& s) {
  const double step = s.learning_rate * s.gradient_factor;
  return {static_cast<T>(1 - s.learning_rate * s.decay), static_cast<T>(step),
          static_cast<T>(s.learning_rate * s.threshold),
          shrinks(s) ? largest_gradient<T>(safe_move<T>, step) : T(-1)};
}

// What a weight becomes, before the threshold.
template <typename T>
ALTMIN_HOST_DEVICE inline T moved(const SgdFactors<T>& f, T weight, T gradient) {
  return f.keep * weight - f.step * gradient;
}

}  // namespace ALTMIN_ISA

}  // namespace altmin

ALTMIN_WIDE_OP(sgd_update, void, SgdUpdate)
