// power_iteration: one step towards sigma_max(W)^2, of several matrices
//
//   t = W^T W v;  sigma_squared = ||t||;  v <- t / ||t||
//
// v has unit norm; it does not change if t is zero or not finite. Nothing may overlap.
#pragma once

#include <cstdint>
#include <vector>

#include "backend.h"

namespace altmin {

template <typename T>
struct PowerIterationMatrix {
  int64_t rows, columns;
  const T* weight;        // W (rows, columns)
  T* vector;              // v (columns), in and out
  double* sigma_squared;  // out
};

template <typename T>
struct PowerIteration {
  std::vector<PowerIterationMatrix<T>> matrices;
};

}  // namespace altmin

ALTMIN_WIDE_OP(power_iteration, void, PowerIteration)
