// hinge_prox: the proximal map of the hinge loss, tilted by a multiplier
//
//   out = argmin_z  l(z, target) + multiplier z + beta (z - center)^2
//   l(z, 1) = max(1 - z, 0),  l(z, 0) = max(z, 0)
//
// The objective is two parabolas that meet at the kink of the loss, z = target. The one where the loss is flat has
// its vertex at w = center - multiplier / (2 beta); the one on its slope at w + 1 / (2 beta) for target 1, and at w -
// 1 / (2 beta) for target 0. The minimiser is the middle one of the kink and the two vertices.
//
// The result for a target other than 0 and 1 is NaN. Raises the guard if out is not finite. `out` may be `center`;
// nothing else may overlap.
#pragma once

#include <cstdint>
#include <limits>

#include "backend.h"
#include "platform.h"

namespace altmin {

template <typename T>
struct HingeProx {
  int64_t size;
  const T* center;
  const T* targets;
  const T* multiplier;
  T* out;
  double beta;  // > 0
  double* guard;
};

inline namespace ALTMIN_ISA {

template <typename T>
struct HingeProxMap {
  T reach;  // how far a slope of one moves the vertex of the parabola

  explicit HingeProxMap(const HingeProx<T>& o) : reach(static_cast<T>(0.5 / o.beta)) {}

  // The comparisons are written so that a NaN stays a NaN.
  ALTMIN_HOST_DEVICE T operator()(T center, T target, T multiplier) const {
    const T flat = center - multiplier * reach;
    const T lower = target == T(0) ? flat - reach : flat;
    const T upper = target == T(1) ? flat + reach : flat;
    const T outside = upper < target ? upper : lower;
    const T result = (lower <= target) & (target <= upper) ? target : outside;
    const bool known = (target == T(0)) | (target == T(1));
    return known ? result : std::numeric_limits<T>::quiet_NaN();
  }
};

}  // namespace ALTMIN_ISA

}  // namespace altmin

ALTMIN_OP(hinge_prox, void, HingeProx)
