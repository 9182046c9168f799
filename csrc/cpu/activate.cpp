#include "ops/activate.h"

#include "parallel.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// One row; returns the sum of squares of its codes. No __restrict on the two outputs, which may be one.
template <typename T, typename Sigma>
T activate_row(T* code, const T* bias, T* activation, const Sigma sigma, int64_t width) {
  T square = 0;
  if (code == activation) {
#pragma omp simd reduction(+ : square)
    for (int64_t j = 0; j < width; ++j) {
      const T c = bias ? code[j] + bias[j] : code[j];
      square += c * c;
      activation[j] = sigma.value(c);
    }
  } else {
#pragma omp simd reduction(+ : square)
    for (int64_t j = 0; j < width; ++j) {
      const T c = bias ? code[j] + bias[j] : code[j];
      square += c * c;
      code[j] = c;
      activation[j] = sigma.value(c);
    }
  }
  return square;
}

// Rows [begin, end); returns the sum of squares of the codes.
template <typename T, typename Sigma>
double activate_rows(const Activate<T>& o, const Sigma sigma, int64_t begin, int64_t end) {
  double sum = 0;
  for (int64_t row = begin; row < end; ++row) {
    T* activation = o.activation + row * o.width;
    sum += activate_row(o.code + row * o.width, o.bias, activation, sigma, o.width);
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
  dispatch_activation<T>(o.kind, o.parameter, [&](auto sigma) {
    const double sum = parallel_sum(
        o.batch, threads_for(o.batch * o.width),
        [&](int64_t begin, int64_t end) { return activate_rows(o, sigma, begin, end); }, 1);
    raise_unless_finite(sum, o.guard);
  });
}

ALTMIN_INSTANTIATE(activate, void, Activate)

}  // namespace altmin::cpu::ALTMIN_ISA
