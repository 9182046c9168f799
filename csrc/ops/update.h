// What the weight updates share: by how much a finite weight may move without an overflow.
#pragma once

#include <cmath>
#include <limits>

#include "platform.h"
#include "scalars.h"

namespace altmin {
inline namespace ALTMIN_ISA {

// Half the distance by which the largest number must grow before it is rounded to infinity.
template <typename T>
inline constexpr double safe_move =
    double{std::numeric_limits<T>::max()} * std::numeric_limits<T>::epsilon() / 8;

// Whether decay and threshold surely leave a finite weight finite.
ALTMIN_HOST_DEVICE inline bool shrinks(const UpdateScalars& s) {
  return std::fabs(1 - s.learning_rate * s.decay) <= 1 && s.learning_rate * s.threshold >= 0;
}

// How large a gradient may be if `factor` times it may be as large as `product`; negative: none is safe.
template <typename T>
ALTMIN_HOST_DEVICE inline T largest_gradient(double product, double factor) {
  constexpr double largest = std::numeric_limits<T>::max();
  if (!(std::fabs(factor) <= largest)) return T(-1);
  const double bound = product / std::fabs(factor);
  return static_cast<T>(bound < largest ? bound : largest);
}

template <typename T>
ALTMIN_HOST_DEVICE inline bool is_finite(T value) {
  return std::fabs(value) <= std::numeric_limits<T>::max();
}

}  // namespace ALTMIN_ISA
}  // namespace altmin
