// The test by which guards are raised.
#pragma once

#include <limits>

#include "platform.h"

namespace altmin {

inline namespace ALTMIN_ISA {

// Whether a sum of squares or absolute values is finite. A NaN in it makes it NaN, for which no comparison is true.
ALTMIN_HOST_DEVICE inline bool is_finite_sum(double sum) { return sum <= std::numeric_limits<double>::max(); }

}  // namespace ALTMIN_ISA

}  // namespace altmin
