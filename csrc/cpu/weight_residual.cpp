#include "ops/weight_residual.h"

#include <vector>

#include "parallel.h"
#include "sums.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// One row. What cancels, product + bias - code, is taken first, so that only what is left of it is scaled.
template <typename T>
void residual_row(const WeightResidualStage<T>& o, const T of_displacement, const T of_product, int64_t row) {
  const int64_t width = o.width;
  const T* displacement = o.displacement + row * width;
  T* residual = o.residual + row * width;  // no __restrict: it may be `displacement` or `product`
  const T* product = o.product ? o.product + row * width : nullptr;
  if (!o.bias && !o.code) {
    if (product) {
#pragma omp simd
      for (int64_t j = 0; j < width; ++j)
        residual[j] = of_displacement * displacement[j] + of_product * product[j];
    } else {
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) residual[j] = of_displacement * displacement[j];
    }
    return;
  }
  const T* bias = o.bias;
  const T* code = o.code ? o.code + row * width : nullptr;
#pragma omp simd
  for (int64_t j = 0; j < width; ++j) {
    const T fit = (product ? product[j] : T(0)) + (bias ? bias[j] : T(0)) - (code ? code[j] : T(0));
    residual[j] = of_displacement * displacement[j] + of_product * fit;
  }
}

// Threads own ranges of rows, where a column range each would have them fetch half of every row from the other's
// cache. Their column sums are added in thread order.
template <typename T>
void stage_residual(const WeightResidualStage<T>& o, const int64_t batch, T* all_blocks, double* all_totals) {
  CodeScalars& s = *o.scalars;
  const T of_displacement = static_cast<T>(s.unit / s.scale);
  const T of_product = static_cast<T>((o.below ? o.below->unit : 1.0) / s.scale);
  const int threads = threads_for(batch * o.width);
  if (o.bias_gradient) std::fill_n(all_totals, threads * o.width, 0.0);
  double squares[max_threads] = {};
  parallel_ranges(
      o.width > 0 ? batch : 0, threads,
      [&](int thread, int64_t begin, int64_t end) {
        const int64_t place = thread * o.width;
        ColumnSums<T> sums(all_blocks + place, all_totals + place, o.bias_gradient ? o.width : 0);
        double square = 0;
        for (int64_t row = begin; row < end; ++row) {
          const T* residual = o.residual + row * o.width;
          residual_row(o, of_displacement, of_product, row);
          square += sum_of_squares(residual, o.width);
          if (o.bias_gradient) sums.add(residual);
        }
        sums.totals();
        squares[thread] = square;
      },
      1);
  s.residual_square = 0;
  for (int thread = 0; thread < threads; ++thread) s.residual_square += squares[thread];
  for (int64_t j = 0; o.bias_gradient && j < o.width; ++j) {
    double sum = 0;
    for (int thread = 0; thread < threads; ++thread) sum += all_totals[thread * o.width + j];
    o.bias_gradient[j] = static_cast<T>(sum);
  }
  raise_unless_finite(s.residual_square, o.guard);
}

}  // namespace

template <typename T>
void weight_residual(const WeightResidual<T>& o) {
  int64_t size = 0;
  for (const WeightResidualStage<T>& stage : o.stages)
    if (stage.bias_gradient) size = std::max(size, threads_for(o.batch * stage.width) * stage.width);
  const Scratch<T> blocks(1, size);
  const Scratch<double, 1> totals(1, size);
  for (const WeightResidualStage<T>& stage : o.stages) stage_residual(stage, o.batch, blocks[0], totals[0]);
}

ALTMIN_INSTANTIATE(weight_residual, void, WeightResidual)

}  // namespace altmin::cpu::ALTMIN_ISA
