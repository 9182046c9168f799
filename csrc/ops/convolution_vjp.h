// convolution_vjp: the transpose of a convolution, applied to the displacements of its codes
//
//   pulled_back[y][x] = sum over i, j, outputs of weight[i][j] d[y - i + padding][x - j + padding]
//
// where d has the displacement of each code at its winner's place, and zeros elsewhere. Nothing may overlap.
#pragma once

#include <cstdint>

#include "backend.h"
#include "convolution.h"

namespace altmin {

template <typename T>
struct ConvolutionVjp {
  ConvolutionShape shape;
  const T* displacement;  // like the code
  const uint8_t* winner;  // like the code; null without pooling
  const T* weight;
  T* pulled_back;  // like the input, out
};

}  // namespace altmin

ALTMIN_WIDE_OP(convolution_vjp, void, ConvolutionVjp)
