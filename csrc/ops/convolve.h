// convolve: the encode of a stage that convolves and pools
//
//   c          = sum over i, j, inputs of weight[i][j] input[y + i - padding][x + j - padding] + bias
//   code       = the largest c of each window of pool x pool
//   winner     = its place in the window, row by row; the first of equals
//   gap        = the code minus the second largest c of the window: how far the winner falls until another one wins
//   activation = mask * sigma(code)
//
// Since a monotone sigma takes the largest to the largest, it does not matter which comes first in the network,
// sigma or the pooling. A NaN wins its window. Raises the guard when a code is not finite.
// `activation` may be `code`, which then is lost; nothing else may overlap.
#pragma once

#include <cstdint>

#include "activation.h"
#include "backend.h"
#include "convolution.h"

namespace altmin {

template <typename T>
struct Convolve {
  ConvolutionShape shape;
  const T* input;
  const T* weight;
  const T* bias;    // (outputs) or null
  const T* mask;    // like code, or null
  T* code;          // out
  T* activation;    // like code, out
  uint8_t* winner;  // like code, out, or null
  T* gap;           // like code, out, or null
  Activation kind;
  T parameter;
  double* guard;
};

}  // namespace altmin

ALTMIN_WIDE_OP(convolve, void, Convolve)
