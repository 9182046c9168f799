#include "ops/activation_vjp.h"

#include "activation_loops.h"
#include "parallel.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// Elements [i, i + n), n at most activation_chunk.
template <typename T>
void vjp_chunk(const ActivationVjp<T>& o, int64_t i, int64_t n) {
  const T* gradient = o.gradient + i;
  T* out = o.out + i;
  T slope[activation_chunk];
  activation_derivatives(o.kind, o.parameter, o.code + i, slope, n);
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) out[j] = slope[j] * gradient[j];
}

}  // namespace

template <typename T>
void activation_vjp(const ActivationVjp<T>& o) {
  parallel_ranges(o.size, threads_for(o.size), [&](int, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += activation_chunk)
      vjp_chunk(o, i, std::min(activation_chunk, end - i));
  });
}

ALTMIN_INSTANTIATE(activation_vjp, void, ActivationVjp)

}  // namespace altmin::cpu::ALTMIN_ISA
