// The BLAS that torch has loaded, and who multiplies matrices: it, or our own kernels.
#pragma once

#include "ops/matmul.h"

namespace altmin::cpu {

enum class MatMulBackend { automatic, own, blas };

// Automatic unless another is forced.
extern MatMulBackend matmul_backend_in_use;
// Forces one by name, "own" or "blas", or ends that by "auto", for tests and benchmarks; false if there is none.
bool use_matmul_backend(const char* name);

// Whether torch has a BLAS in this process, which is found out once.
bool has_blas();
// Whether the processor is AMD's, on which the BLAS that torch brings along, Intel's, keeps to AVX2.
bool blas_keeps_to_avx2();
// The product, called as torch.mm calls it: the same bits. None of the extents is zero.
template <typename T>
void blas_matmul(const MatMul<T>& o);

}  // namespace altmin::cpu
