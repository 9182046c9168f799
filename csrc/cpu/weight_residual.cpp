#include "ops/weight_residual.h"

#include <vector>

#include "parallel.h"
#include "vector.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// Rows [begin, end), their sum added to `bias_gradient`; returns the sum of squares of the residual.
template <typename T>
double residual_rows(const WeightResidual<T>& o, const T of_displacement, const T of_product,
                     T* __restrict bias_gradient, int64_t begin, int64_t end) {
  const int64_t width = o.width;
  double sum = 0;
  for (int64_t row = begin; row < end; ++row) {
    const T* displacement = o.displacement + row * width;
    T* residual = o.residual + row * width;
    if (o.product) {
      const T* product = o.product + row * width;
#pragma omp simd
      for (int64_t j = 0; j < width; ++j)
        residual[j] = of_displacement * displacement[j] + of_product * product[j];
    } else {
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) residual[j] = of_displacement * displacement[j];
    }
    if (o.code) {
      const T* __restrict code = o.code + row * width;
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) residual[j] -= of_product * code[j];
    }
    if (o.bias) {
      const T* __restrict bias = o.bias;
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) residual[j] += of_product * bias[j];
    }
    sum += sum_of_squares(residual, width);
    if (bias_gradient) {
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) bias_gradient[j] += residual[j];
    }
  }
  return sum;
}

}  // namespace

// Threads own ranges of rows, where a column range each would have them fetch half of every row from the other's
// cache. The first sums into the bias gradient itself, the others beside it, added in thread order.
template <typename T>
void weight_residual(const WeightResidual<T>& o) {
  CodeScalars& s = *o.scalars;
  const T of_displacement = static_cast<T>(s.unit / s.scale);
  const T of_product = static_cast<T>((o.below ? o.below->unit : 1.0) / s.scale);
  const int threads = threads_for(o.batch * o.width);
  static thread_local std::vector<T> buffer;  // grows once, to the largest stage
  if (o.bias_gradient) {
    std::fill_n(o.bias_gradient, o.width, T(0));
    buffer.assign(static_cast<size_t>((threads - 1) * o.width), T(0));
  }
  T* const others = buffer.data();
  double squares[max_threads] = {};
  parallel_ranges(
      o.batch, threads,
      [&](int thread, int64_t begin, int64_t end) {
        T* const sums = thread == 0 || !o.bias_gradient ? o.bias_gradient : others + (thread - 1) * o.width;
        squares[thread] = residual_rows(o, of_displacement, of_product, sums, begin, end);
      },
      1);
  s.residual_square = 0;
  for (int thread = 0; thread < threads; ++thread) {
    s.residual_square += squares[thread];
    if (thread == 0 || !o.bias_gradient) continue;
    for (int64_t j = 0; j < o.width; ++j) o.bias_gradient[j] += others[(thread - 1) * o.width + j];
  }
  raise_unless_finite(s.residual_square, o.guard);
}

ALTMIN_INSTANTIATE(weight_residual, void, WeightResidual)

}  // namespace altmin::cpu::ALTMIN_ISA
