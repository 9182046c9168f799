#include "ops/relu_prox.h"

#include "parallel.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// Elements [begin, end); returns zero, or a NaN if not all results are finite. The map is a copy, which no store can
// change, so that the loop vectorises.
template <typename T>
T map_range(const ReluProx<T>& o, const ReluProxMap<T> map, int64_t begin, int64_t end) {
  const T *activation = o.activation, *center = o.center;
  T* out = o.out;
  T zero = 0;
#pragma omp simd reduction(+ : zero)
  for (int64_t i = begin; i < end; ++i) {
    const T result = map(activation[i], center[i]);
    out[i] = result;
    zero += result * T(0);
  }
  return zero;
}

}  // namespace

template <typename T>
void relu_prox(const ReluProx<T>& o) {
  const ReluProxMap<T> map(o);
  const double zero = parallel_sum(o.size, threads_for(o.size), [&](int, int64_t begin, int64_t end) {
    return map_range(o, map, begin, end);
  });
  raise_unless_finite(zero, o.guard);
}

ALTMIN_INSTANTIATE(relu_prox, void, ReluProx)

}  // namespace altmin::cpu::ALTMIN_ISA
