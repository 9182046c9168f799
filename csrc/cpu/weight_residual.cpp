#include "ops/weight_residual.h"

#include "parallel.h"
#include "vector.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// Columns [begin, end) of all rows; returns the sum of squares of the residual.
template <typename T>
double residual_range(const WeightResidual<T>& o, const T of_displacement, const T of_product, int64_t begin,
                      int64_t end) {
  T* __restrict bias_gradient = o.bias_gradient;
  if (bias_gradient) std::fill_n(bias_gradient + begin, end - begin, T(0));
  double sum = 0;
  for (int64_t row = 0; row < o.batch; ++row) {
    const int64_t offset = row * o.width;
    const T* displacement = o.displacement + offset;
    T* residual = o.residual + offset;
    if (o.product) {
      const T* product = o.product + offset;
#pragma omp simd
      for (int64_t j = begin; j < end; ++j)
        residual[j] = of_displacement * displacement[j] + of_product * product[j];
    } else {
#pragma omp simd
      for (int64_t j = begin; j < end; ++j) residual[j] = of_displacement * displacement[j];
    }
    if (o.code) {
      const T* __restrict code = o.code + offset;
#pragma omp simd
      for (int64_t j = begin; j < end; ++j) residual[j] -= of_product * code[j];
    }
    if (o.bias) {
      const T* __restrict bias = o.bias;
#pragma omp simd
      for (int64_t j = begin; j < end; ++j) residual[j] += of_product * bias[j];
    }
    sum += sum_of_squares(residual + begin, end - begin);
    if (bias_gradient) {
#pragma omp simd
      for (int64_t j = begin; j < end; ++j) bias_gradient[j] += residual[j];
    }
  }
  return sum;
}

}  // namespace

// Threads own ranges of columns, so that each column of the bias gradient has one writer and its sum runs over
// the batch in order, whatever the number of threads.
template <typename T>
void weight_residual(const WeightResidual<T>& o) {
  CodeScalars& s = *o.scalars;
  const T of_displacement = static_cast<T>(s.unit / s.scale);
  const T of_product = static_cast<T>((o.below ? o.below->unit : 1.0) / s.scale);
  s.residual_square = parallel_sum(o.width, threads_for(o.batch * o.width), [&](int64_t begin, int64_t end) {
    return residual_range(o, of_displacement, of_product, begin, end);
  });
  raise_unless_finite(s.residual_square, o.guard);
}

ALTMIN_INSTANTIATE(weight_residual, void, WeightResidual)

}  // namespace altmin::cpu::ALTMIN_ISA
