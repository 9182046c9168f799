// activate: code <- code + bias;  activation = mask * sigma(code).
//
// The epilogue of the encode: one pass over the pre-activations that a matrix product has written.
// Raises the guard if a code is not finite. `activation` may be `code`, which is overwritten then; nothing else may
// overlap.
#pragma once

#include <cstdint>

#include "activation.h"
#include "backend.h"

namespace altmin {

template <typename T>
struct Activate {
  int64_t batch, width;
  T* code;        // (batch, width), in and out
  const T* bias;  // (width) or null
  const T* mask;  // (batch, width) or null
  T* activation;  // (batch, width), out
  Activation kind;
  T parameter;
  double* guard;  // set to 1 if a code is not finite
};

}  // namespace altmin

ALTMIN_WIDE_OP(activate, void, Activate)
