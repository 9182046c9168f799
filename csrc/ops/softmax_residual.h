// softmax_residual: with z = logits + bias
//
//   residual      = softmax(z) - onehot(labels)         loss    = mean of -log softmax(z)[label]
//   bias_gradient = sum over the batch of residual      correct = number of samples with argmax z = label
//
// Returns -1, or the index of the first label outside [0, classes), in which case nothing has been written.
// Raises the guard if the loss is not finite. `residual` may be `logits`; nothing else may overlap.
#pragma once

#include <cstdint>

#include "backend.h"

namespace altmin {

template <typename T>
struct SoftmaxResidual {
  int64_t batch, classes;
  const T* logits;        // (batch, classes)
  const T* bias;          // (classes) or null
  const int64_t* labels;  // (batch)
  T* residual;            // (batch, classes), out
  T* bias_gradient;       // (classes), out, or null
  T* loss;                // out
  int64_t* correct;       // out
  double* guard;
};

}  // namespace altmin

ALTMIN_WIDE_OP(softmax_residual, int64_t, SoftmaxResidual)
