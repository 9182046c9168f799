#include "ops/activate.h"

#include "activation_loops.h"
#include "parallel.h"
#include "sums.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// Rows [begin, end); returns the sum of squares of the codes.
template <typename T>
double activate_rows(const Activate<T>& o, int64_t begin, int64_t end) {
  double sum = 0;
  for (int64_t row = begin; row < end; ++row) {
    T* code = o.code + row * o.width;
    T* activation = o.activation + row * o.width;
    if (o.bias) {
      const T* __restrict bias = o.bias;
#pragma omp simd
      for (int64_t j = 0; j < o.width; ++j) code[j] += bias[j];
    }
    if (o.guard) sum += sum_of_squares(code, o.width);
    activation_values(o.kind, o.parameter, code, activation, o.width);
    if (o.mask) {
      const T* __restrict mask = o.mask + row * o.width;
#pragma omp simd
      for (int64_t j = 0; j < o.width; ++j) activation[j] *= mask[j];
    }
  }
  return sum;
}

}  // namespace

template <typename T>
void activate(const Activate<T>& o) {
  const double sum = parallel_sum(
      o.width > 0 ? o.batch : 0, threads_for(o.batch * o.width),
      [&](int, int64_t begin, int64_t end) { return activate_rows(o, begin, end); }, 1);
  raise_unless_finite(sum, o.guard);
}

ALTMIN_INSTANTIATE(activate, void, Activate)

}  // namespace altmin::cpu::ALTMIN_ISA
