#include "ops/relu_prox.h"

#include "parallel.h"

namespace altmin::cpu::ALTMIN_ISA {

template <typename T>
void relu_prox(const ReluProx<T>& o) {
  const ReluProxMap<T> map(o);
  const double zero = parallel_sum(o.size, threads_for(o.size), [&](int64_t begin, int64_t end) {
    T sum = 0;  // stays zero as long as all results are finite
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) {
      const T result = map(o.activation[i], o.center[i]);
      o.out[i] = result;
      sum += result * T(0);
    }
    return sum;
  });
  raise_unless_finite(zero, o.guard);
}

ALTMIN_INSTANTIATE(relu_prox, void, ReluProx)

}  // namespace altmin::cpu::ALTMIN_ISA
