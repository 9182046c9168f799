// convolve: the encode of a stage that convolves, with the activation and pooling above it
//
//   c          = sum over i, j, inputs of weight[i][j] input[y + i - padding][x + j - padding] + bias
//   code       = the largest c of each window of pool x pool
//   winner     = its place in the window, row by row; the first of equals
//   gap        = the code minus the second largest c of the window: how far it may fall before another one wins
//   activation = mask * sigma(code)
//
// A monotone sigma maps the largest to the largest, so sigma and the pooling may come in either order in the network.
// A NaN wins its window. Raises the guard if a code is not finite. `activation` may be `code`, which is overwritten
// then; nothing else may overlap.
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
