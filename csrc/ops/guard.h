// When a guard is raised.
#pragma once

#include <limits>

#include "platform.h"

namespace altmin {

inline namespace ALTMIN_ISA {

// Of squares or absolute values, which a NaN among them makes a NaN: of that no comparison is true.
ALTMIN_HOST_DEVICE inline bool is_finite_sum(double sum) { return sum <= std::numeric_limits<double>::max(); }

}  // namespace ALTMIN_ISA

}  // namespace altmin
