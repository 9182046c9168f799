#include "blas.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <limits>

namespace altmin::cpu {

namespace {

// By address throughout, as Fortran has it.
template <typename T>
using Gemm = void (*)(const char* transpose_a, const char* transpose_b, const int* m, const int* n,
                      const int* k, const T* alpha, const T* a, const int* lda, const T* b, const int* ldb,
                      const T* beta, T* c, const int* ldc);

struct Blas {
  Gemm<float> sgemm = nullptr;
  Gemm<double> dgemm = nullptr;

  Blas() {
    for (const char* name : {"libtorch_cpu.so", "libtorch_cpu.dylib"})
      if (void* library = dlopen(name, RTLD_LAZY | RTLD_NOLOAD)) look_in(library);
    look_in(RTLD_DEFAULT);
  }

 private:
  void look_in(void* library) {
    if (sgemm && dgemm) return;
    sgemm = reinterpret_cast<Gemm<float>>(dlsym(library, "sgemm_"));
    dgemm = reinterpret_cast<Gemm<double>>(dlsym(library, "dgemm_"));
  }
};

const Blas& blas() {
  static const Blas found;
  return found;
}

constexpr const char* backend_names[] = {"auto", "own", "blas"};

// A matrix by its strides.
template <typename T>
struct Strided {
  const T* data;
  int64_t row, column;
};

}  // namespace

std::atomic<MatMulBackend> matmul_backend_in_use = MatMulBackend::automatic;

bool use_matmul_backend(const char* name) {
  for (int i = 0; i < static_cast<int>(std::size(backend_names)); ++i) {
    const auto backend = static_cast<MatMulBackend>(i);
    if (std::strcmp(name, backend_names[i]) == 0 && (backend != MatMulBackend::blas || has_blas())) {
      matmul_backend_in_use = backend;
      return true;
    }
  }
  return false;
}

bool has_blas() { return blas().sgemm && blas().dgemm; }

bool processor_is_not_intels() {
#if defined(ALTMIN_WITH_AVX2)
  static const bool others = !__builtin_cpu_is("intel");
  return others;
#else
  return false;
#endif
}

bool may_use_blas() {
  if (matmul_backend_in_use == MatMulBackend::own || !has_blas()) return false;
  const bool own = instruction_set_in_use >= InstructionSet::avx2 && processor_is_not_intels();
  return matmul_backend_in_use == MatMulBackend::blas || !own;
}

template <typename T>
void blas_matmul(const MatMul<T>& o) {
  // BLAS has columns first, so what has rows first is computed transposed; a single column is the same either way, and
  // torch takes it for what BLAS has.
  const bool swapped = o.n != 1;
  Strided<T> left{o.a, o.transpose_a ? 1 : o.k, o.transpose_a ? o.m : 1};
  Strided<T> right{o.b, o.transpose_b ? 1 : o.n, o.transpose_b ? o.k : 1};
  int64_t m = o.m, n = o.n;
  if (swapped) {
    std::swap(left, right);
    std::swap(left.row, left.column);
    std::swap(right.row, right.column);
    std::swap(m, n);
  }
  // Of two ways to say the same, where an extent is 1, torch takes the first.
  const bool transpose_left = !(left.row == 1 && left.column >= m);
  const bool transpose_right = !(right.row == 1 && right.column >= o.k);
  const auto leading = [](int64_t stride, bool one, int64_t least) {
    return static_cast<int>(one ? least : stride);
  };
  const int lda = transpose_left ? leading(left.row, m == 1, o.k) : leading(left.column, o.k == 1, m);
  const int ldb = transpose_right ? leading(right.row, o.k == 1, n) : leading(right.column, n == 1, o.k);
  const int rows = static_cast<int>(m), columns = static_cast<int>(n), inner = static_cast<int>(o.k);
  const T one = 1, zero = 0;
  const Gemm<T> gemm = [] {
    if constexpr (sizeof(T) == sizeof(float))
      return blas().sgemm;
    else
      return blas().dgemm;
  }();
  gemm(transpose_left ? "t" : "n", transpose_right ? "t" : "n", &rows, &columns, &inner, &one, left.data, &lda,
       right.data, &ldb, &zero, o.out, &rows);
}

template void blas_matmul(const MatMul<float>&);
template void blas_matmul(const MatMul<double>&);

}  // namespace altmin::cpu
