// mse_residual: with z = logits + bias
//
//   residual      = (2 / width) (z - targets)            loss = mean of (z - targets)^2 over batch and width
//   bias_gradient = sum over the batch of residual
//
// Raises the guard if the loss is not finite. `residual` may be `logits`; nothing else may overlap.
#pragma once

#include <cstdint>

#include "backend.h"

namespace altmin {

template <typename T>
struct MseResidual {
  int64_t batch, width;
  const T* logits;   // (batch, width)
  const T* bias;     // (width) or null
  const T* targets;  // (batch, width)
  T* residual;       // (batch, width), out
  T* bias_gradient;  // (width), out, or null
  T* loss;           // out
  double* guard;
};

}  // namespace altmin

ALTMIN_OP(mse_residual, void, MseResidual)
