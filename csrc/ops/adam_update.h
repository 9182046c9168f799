// adam_update: Adam (Kingma & Ba 2015) with decoupled decay and a soft threshold, on many tensors in one call
//
//   t <- t + 1;  g = gradient_factor * gradient;  w <- (1 - lr decay) w
//   m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2
//   w <- soft(w - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon), lr threshold)
//
// Does nothing if a flag of the guard is raised, or without a tensor. An element that would become non-finite keeps its weight and
// moments, and raises the flag of its tensor. Nothing may overlap.
#pragma once

#include <cstdint>
#include <vector>

#include "backend.h"
#include "scalars.h"

namespace altmin {

template <typename T>
struct AdamTensor {
  int64_t size;
  T* weight;
  const T* gradient;
  T* first_moment;
  T* second_moment;
  const UpdateScalars* scalars;
  double* guard;
};

template <typename T>
struct AdamUpdate {
  std::vector<AdamTensor<T>> tensors;
  AdamScalars* adam;
  const double* guard;  // (guards) flags of the whole step
  int64_t guards;
};

}  // namespace altmin

ALTMIN_OP(adam_update, void, AdamUpdate)
