// power_iteration: one step towards sigma_max(W)^2
//
//   t = W^T W v;  sigma_squared = ||t||;  v <- t / ||t||
//
// v has unit norm; it stays as it is where t is zero or not finite. One pass over W. Nothing may overlap.
#pragma once

#include <cstdint>

#include "backend.h"

namespace altmin {

template <typename T>
struct PowerIteration {
  int64_t rows, columns;
  const T* weight;        // (rows, columns)
  T* vector;              // v (columns), in and out
  double* sigma_squared;  // out
};

}  // namespace altmin

ALTMIN_OP(power_iteration, void, PowerIteration)
