// The BLAS that torch has loaded, and who multiplies matrices: it, or our own kernels.
#pragma once

#include <atomic>

#include "ops/matmul.h"

namespace altmin::cpu {

enum class MatMulBackend { automatic, own, blas };

// Automatic unless another is forced.
extern std::atomic<MatMulBackend> matmul_backend_in_use;
// Forces one by name, "own" or "blas", or ends that by "auto", for tests and benchmarks; false if there is none.
bool use_matmul_backend(const char* name);

// Whether torch has a BLAS in this process, which is found out once.
bool has_blas();
// Whether the processor is none of Intel's: on those the BLAS that torch brings along, which is Intel's, makes less of them.
bool processor_is_not_intels();
// Whether products may be the BLAS's, in the instruction set in use.
bool may_use_blas();
// The product, called as torch.mm calls it: the same bits. None of the extents is zero.
template <typename T>
void blas_matmul(const MatMul<T>& o);

}  // namespace altmin::cpu
