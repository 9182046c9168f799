// sgd_update: gradient descent with decoupled decay and a soft threshold, on many tensors in one call
//
//   w <- soft((1 - lr decay) w - lr gradient_factor * gradient, lr threshold)
//
// Does nothing if a flag of the guard is raised. An element that would become non-finite keeps its weight, and
// raises the flag of its tensor. Nothing may overlap.
#pragma once

#include <cstdint>
#include <vector>

#include "backend.h"
#include "scalars.h"

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

}  // namespace altmin

ALTMIN_OP(sgd_update, void, SgdUpdate)
