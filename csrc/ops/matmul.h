// matmul: the product of two matrices, each as it is or transposed
//
//   out = op(a) op(b)
//
// Nothing may overlap `out`. On a GPU there is no kernel of ours: torch has cuBLAS's.
#pragma once

#include <cstdint>

#include "backend.h"

namespace altmin {

template <typename T>
struct MatMul {
  int64_t m, n, k;
  const T* a;  // (m, k), or (k, m) if it is transposed
  const T* b;  // (k, n), or (n, k) if it is transposed
  T* out;      // (m, n)
  bool transpose_a, transpose_b;
};

}  // namespace altmin

ALTMIN_WIDE_CPU_OP(matmul, void, MatMul)

namespace altmin::cuda {

template <typename T>
void matmul(const MatMul<T>&, Stream) {}  // never called: the binding asks torch

}  // namespace altmin::cuda
