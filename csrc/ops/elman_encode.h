// elman_encode: an Elman layer over a batch of sequences, and the linear map that reads it
//
//   h_t     = tanh(V x_t + U h_{t-1} + b),  t = 1..T,  h_0 = 0,  b the sum of both biases
//   product = W o,  o = (phi(h_1), ..., phi(h_T))
//
// The output o is as large as `hidden`, and is never stored: W reads it while it is computed.
// Nothing may overlap.
#pragma once

#include <cstdint>

#include "activation.h"
#include "backend.h"
#include "lanes.h"

namespace altmin {

template <typename T>
struct ElmanEncode {
  int64_t batch, steps, n_in, width, n_out;
  const T* x;                 // (batch, steps, n_in)
  const T* input_weight;      // V (width, n_in)
  const T* recurrent_weight;  // U (width, width)
  const T* input_bias;        // (width) or null
  const T* recurrent_bias;    // (width) or null
  const T* output_weight;     // W (n_out, steps * width)
  T* hidden;                  // h (groups_of(batch), steps, width, 16), out; 0 beyond the batch
  T* product;                 // (batch, n_out), out
  Activation kind;            // phi
  T parameter;
};

}  // namespace altmin

ALTMIN_WIDE_OP(elman_encode, void, ElmanEncode)
