#include "ops/weight_residual.h"

#include <cstring>
#include <vector>

#include "parallel.h"
#include "sums.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// A V, which is a T or several.
template <typename V, typename T>
V read(const T* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

// So many rows from `row` on, whose residual is value(V(), place, column); returns its sum of squares.
template <int rows, typename T, typename Value>
double residual_rows(const WeightResidualStage<T>& o, ColumnSums<T>& sums, int64_t row, const Value& value) {
  const int64_t width = o.width, start = row * width;
  T* const residual = o.residual + start;
  T* const columns = sums.sums_with(rows);
  const auto residual_at = [&](auto zero, int64_t j) {
    using V = decltype(zero);
    V own[rows], square = zero, column = zero;
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
      own[r] = value(zero, start + r * width + j, j);
      square += own[r] * own[r];
      column += own[r];
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) std::memcpy(residual + r * width + j, &own[r], sizeof(V));
    column += read<V>(columns + j);
    std::memcpy(columns + j, &column, sizeof(V));
    return square;
  };
  Vector<T> squares{};
  T rest = 0;
  int64_t j = 0;
  for (; j + vector_width<T> <= width; j += vector_width<T>) squares += residual_at(Vector<T>{}, j);
  for (; j < width; ++j) rest += residual_at(T(0), j);
  return sum_of_squares(residual, rows * width, sum_of_lanes<T>(squares) + rest);
}

// Rows [begin, end). Four at a time share what is read and written of their columns.
template <typename T, typename Value>
double residual_range(const WeightResidualStage<T>& o, ColumnSums<T>& sums, int64_t begin, int64_t end,
                      const Value& value) {
  double square = 0;
  int64_t row = begin;
  for (; row + 4 <= end; row += 4) square += residual_rows<4>(o, sums, row, value);
  for (; row < end; ++row) square += residual_rows<1>(o, sums, row, value);
  return square;
}

// What cancels, product + bias - code, is taken first, so that only what is left of it is scaled.
template <typename T>
double residual_of(const WeightResidualStage<T>& o, const T of_displacement, const T of_product,
                   ColumnSums<T>& sums, int64_t begin, int64_t end) {
  const T *displacement = o.displacement, *product = o.product, *bias = o.bias, *code = o.code;
  if (bias || code) {
    return residual_range(o, sums, begin, end, [=](auto zero, int64_t i, int64_t j) {
      using V = decltype(zero);
      V fit = zero;
      if (product) fit += read<V>(product + i);
      if (bias) fit += read<V>(bias + j);
      if (code) fit -= read<V>(code + i);
      return of_displacement * read<V>(displacement + i) + of_product * fit;
    });
  }
  if (product) {
    return residual_range(o, sums, begin, end, [=](auto zero, int64_t i, int64_t) {
      using V = decltype(zero);
      return of_displacement * read<V>(displacement + i) + of_product * read<V>(product + i);
    });
  }
  return residual_range(o, sums, begin, end, [=](auto zero, int64_t i, int64_t) {
    return of_displacement * read<decltype(zero)>(displacement + i);
  });
}

// Threads own ranges of rows, where a column range each would have them fetch half of every row from the other's
// cache. Their column sums are added in thread order.
template <typename T>
void stage_residual(const WeightResidualStage<T>& o, const int64_t batch, T* all_blocks, double* all_totals) {
  CodeScalars& s = *o.scalars;
  const T of_displacement = static_cast<T>(s.unit / s.scale);
  const T of_product = static_cast<T>((o.below ? o.below->unit : 1.0) / s.scale);
  const int threads = threads_for(batch * o.width);
  const bool is_empty = batch == 0 || o.width == 0;
  if (!is_empty) std::fill_n(all_totals, threads * o.width, 0.0);
  double squares[max_threads] = {};
  const auto range = [&](int thread, int64_t begin, int64_t end) {
    const int64_t place = thread * o.width;
    ColumnSums<T> sums(all_blocks + place, all_totals + place, o.width);
    squares[thread] = residual_of(o, of_displacement, of_product, sums, begin, end);
    sums.totals();
  };
  if (!is_empty) parallel_ranges(batch, threads, range, 1);
  s.residual_square = 0;
  for (int thread = 0; thread < threads; ++thread) s.residual_square += squares[thread];
  for (int64_t j = 0; o.bias_gradient && j < o.width; ++j) {
    double sum = 0;
    for (int thread = 0; !is_empty && thread < threads; ++thread) sum += all_totals[thread * o.width + j];
    o.bias_gradient[j] = static_cast<T>(sum);
  }
  raise_unless_finite(s.residual_square, o.guard);
}

}  // namespace

template <typename T>
void weight_residual(const WeightResidual<T>& o) {
  int64_t size = 0;
  for (const WeightResidualStage<T>& stage : o.stages)  // without a sample there is nothing to add up
    if (o.batch > 0) size = std::max(size, threads_for(o.batch * stage.width) * stage.width);
  const Scratch<T> blocks(1, size);
  const Scratch<double, 1> totals(1, size);
  for (const WeightResidualStage<T>& stage : o.stages) stage_residual(stage, o.batch, blocks[0], totals[0]);
}

ALTMIN_INSTANTIATE(weight_residual, void, WeightResidual)

}  // namespace altmin::cpu::ALTMIN_ISA
