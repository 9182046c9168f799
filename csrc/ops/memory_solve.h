// memory_solve: what a minibatch does to P, the inverse of a memory A
//
//   S = I + U X^T = C C^T,  K = C^-1 U,  Z = C^-T K
//
// with the inputs in the rows of X and the product U = X P. A + X^T X has the inverse P - K^T K, and Z is X times it. If
// the minibatch is removed, S = I - U X^T: A - X^T X has the inverse P + K^T K. S is taken from the products of u_i and
// x_j with i <= j alone. The smallest pivot is the smallest square on C's diagonal, 1 if there is none; it is NaN
// unless all are positive and finite, and K and Z are NaN then, too. `factor` may be `product`; nothing else may overlap.
#pragma once

#include <cstdint>

#include "backend.h"

namespace altmin {

template <typename T>
struct MemorySolve {
  int64_t batch, n;
  const T* inputs;         // X (batch, n)
  const T* product;        // U (batch, n)
  T* factor;               // K (batch, n)
  T* solution;             // Z (batch, n)
  double* smallest_pivot;  // (1)
  bool removes;
};

}  // namespace altmin

ALTMIN_WIDE_OP(memory_solve, void, MemorySolve)
