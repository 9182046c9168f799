#include "ops/activate.h"

#include "parallel.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// Rows [begin, end); returns the sum of squares of the codes.
template <typename T, typename Sigma>
double activate_rows(const Activate<T>& o, const Sigma sigma, int64_t begin, int64_t end) {
  double sum = 0;
  const int64_t width = o.width;
  for (int64_t row = begin; row < end; ++row) {
    T* __restrict code = o.code + row * width;
    T* __restrict activation = o.activation + row * width;
    if (o.bias) {
      const T* __restrict bias = o.bias;
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) code[j] += bias[j];
    }
    T square = 0;
#pragma omp simd reduction(+ : square)
    for (int64_t j = 0; j < width; ++j) {
      square += code[j] * code[j];
      activation[j] = sigma.value(code[j]);
    }
    sum += square;
    if (o.mask) {
      const T* __restrict mask = o.mask + row * width;
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) activation[j] *= mask[j];
    }
  }
  return sum;
}

}  // namespace

template <typename T>
void activate(const Activate<T>& o) {
  dispatch_activation<T>(o.kind, o.parameter, [&](auto sigma) {
    const double sum = parallel_sum(
        o.batch, threads_for(o.batch * o.width),
        [&](int64_t begin, int64_t end) { return activate_rows(o, sigma, begin, end); }, 1);
    raise_unless_finite(sum, o.guard);
  });
}

ALTMIN_INSTANTIATE(activate, void, Activate)

}  // namespace altmin::cpu::ALTMIN_ISA
