// memory_solve: what a minibatch does to P, the inverse of a memory, as a recursive least-squares step needs it
//
//   U = (1 - forgetting) (product + bias),  S = I + U X~^T = C C^T,  K = C^-1 U,  Z = C^-T K
//
// with a~ = [a; 1] in the rows of X~ if there is a bias, else a~ = a, and product + bias = X~ P. The new inverse is
// (1 - forgetting) P - K^T K, and Z is X~ times it. If the minibatch is removed, S = I - U X~^T and the new inverse is
// (1 - forgetting) P + K^T K. smallest_pivot is that of C's diagonal squared, 1 for an empty minibatch; NaN unless all
// are positive and finite, and then K and Z are NaN, too. S is taken from the products of u_i and a~_j with i <= j
// alone. `factor` may be `product`; nothing else may overlap.
#pragma once

#include <cstdint>

#include "backend.h"
#include "scalars.h"

namespace altmin {

template <typename T>
struct MemorySolve {
  int64_t batch, n_in;
  int64_t n;               // n_in, or n_in + 1 with the bias
  const T* activation;     // a (batch, n_in)
  const T* product;        // (batch, n)
  const T* bias;           // the last row of P (n); or null
  T* factor;               // K (batch, n)
  T* solution;             // Z (batch, n)
  double* smallest_pivot;  // (1)
  const MemoryScalars* scalars;
  bool removes;
};

}  // namespace altmin

ALTMIN_WIDE_OP(memory_solve, void, MemorySolve)
