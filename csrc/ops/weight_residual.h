// weight_residual: residuals of hidden stages' weight subproblems, each divided by its stage's scale
//
//   residual      = (unit delta + factor (product + bias - code)) / scale
//   bias_gradient = sum over the batch of residual
//
// With `below`, product = W activation_displacement and factor = unit_below: W a + b - c is then the sum of two small
// terms, and nothing cancels. Without it, product = W a and factor = 1. A null product, bias or code counts as zero.
// `residual` may be `displacement` or `product` of its stage. Nothing else may overlap, also between stages, except
// that `below` is the scalars of another stage. Writes the residual's sum of squares to the scalars, and raises the
// stage's flag if that is not finite. One call computes all stages of a network, on a GPU by one launch.
#pragma once

#include <cstdint>
#include <vector>

#include "backend.h"
#include "scalars.h"

namespace altmin {

template <typename T>
struct WeightResidualStage {
  int64_t width;
  const T* displacement;  // delta (batch, width)
  const T* product;       // (batch, width) or null
  const T* bias;          // (width) or null
  const T* code;          // c0 (batch, width) or null
  T* residual;            // (batch, width), out
  T* bias_gradient;       // (width), out, or null
  CodeScalars* scalars;
  const CodeScalars* below;
  double* guard;
};

template <typename T>
struct WeightResidual {
  int64_t batch;
  std::vector<WeightResidualStage<T>> stages;
};

}  // namespace altmin

ALTMIN_WIDE_OP(weight_residual, void, WeightResidual)
