// convolution_weight_gradient: the gradient of a convolutional stage's weight subproblem, divided by the stage's
// scale
//
//   residual              = (unit d + unit_below conv(input_displacement)) / scale
//   weight_gradient[i][j] = sum over samples, y, x of residual[y][x] input[y + i - padding][x + j - padding]
//   bias_gradient         = sum over samples, y, x of residual
//
// where d has the displacement of each code at its winner's place, and zeros elsewhere, and conv has no bias.
// The residual, which has the shape before pooling, is not kept. Writes its sum of squares to the scalars, and raises
// the guard if that is not finite. Nothing may overlap, except that `below` is the scalars of another stage.
#pragma once

#include <cstdint>

#include "backend.h"
#include "convolution.h"
#include "scalars.h"

namespace altmin {

template <typename T>
struct ConvolutionWeightGradient {
  ConvolutionShape shape;
  const T* displacement;  // delta, like the code
  const uint8_t* winner;  // like the code; null without pooling
  const T* weight;
  const T* input_displacement;  // like the input; null: zero
  const T* input;
  T* weight_gradient;  // like the weight, out, or null
  T* bias_gradient;    // (outputs), out, or null
  CodeScalars* scalars;
  const CodeScalars* below;  // null: a unit of 1
  double* guard;
};

}  // namespace altmin

ALTMIN_WIDE_OP(convolution_weight_gradient, void, ConvolutionWeightGradient)
