#include "ops/matmul.h"

#include <algorithm>
#include <limits>

#include "blas.h"
#include "parallel.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

template <typename T>
bool takes_blas(const MatMul<T>& o) {
  if (matmul_backend_in_use == MatMulBackend::own || !has_blas()) return false;
  if (std::max({o.m, o.n, o.k}) > std::numeric_limits<int>::max()) return false;
  return true;
}

}  // namespace

template <typename T>
void matmul(const MatMul<T>& o) {
  if (o.m == 0 || o.n == 0) return;
  if (o.k == 0) {
    std::fill_n(o.out, o.m * o.n, T(0));
    return;
  }
  if (takes_blas(o)) return blas_matmul(o);
  for (int64_t i = 0; i < o.m; ++i)
    for (int64_t j = 0; j < o.n; ++j) {
      T sum = 0;
      for (int64_t l = 0; l < o.k; ++l)
        sum += o.a[o.transpose_a ? l * o.m + i : i * o.k + l] * o.b[o.transpose_b ? j * o.k + l : l * o.n + j];
      o.out[i * o.n + j] = sum;
    }
}

ALTMIN_INSTANTIATE(matmul, void, MatMul)

}  // namespace altmin::cpu::ALTMIN_ISA
