// Proximal maps that several kernels use.
#pragma once

#include "platform.h"

namespace altmin {
inline namespace ALTMIN_ISA {

// argmin_u threshold |u| + (u - x)^2 / 2; a NaN stays a NaN.
template <typename T>
ALTMIN_HOST_DEVICE inline T soft_threshold(T x, T threshold) {
  return x > threshold ? x - threshold : (x < -threshold ? x + threshold : x * T(0));
}

}  // namespace ALTMIN_ISA
}  // namespace altmin
