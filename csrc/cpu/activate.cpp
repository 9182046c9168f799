#include "ops/activate.h"

#include "activation_loops.h"
#include "parallel.h"
#include "sums.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// Elements, where rows are shorter, of the rows that are handled at a time: their codes stay in the first-level cache.
constexpr int64_t chunk = 2048;

// Rows [begin, end); returns the sum of squares of the codes.
template <typename T>
double activate_rows(const Activate<T>& o, int64_t begin, int64_t end) {
  const int64_t n = (end - begin) * o.width;
  T* code = o.code + begin * o.width;
  T* activation = o.activation + begin * o.width;
  if (o.bias) {
    const T* __restrict bias = o.bias;
    for (T* row = code; row < code + n; row += o.width) {
#pragma omp simd
      for (int64_t j = 0; j < o.width; ++j) row[j] += bias[j];
    }
  }
  const double square = o.guard ? sum_of_squares(code, n) : 0.0;
  activation_values(o.kind, o.parameter, code, activation, n);
  if (o.mask) {
    const T* __restrict mask = o.mask + begin * o.width;
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) activation[j] *= mask[j];
  }
  return square;
}

}  // namespace

template <typename T>
void activate(const Activate<T>& o) {
  const int64_t rows = std::max<int64_t>(1, chunk / std::max<int64_t>(1, o.width));
  const double sum = parallel_sum(
      o.width > 0 ? o.batch : 0, threads_for(o.batch * o.width),
      [&](int, int64_t begin, int64_t end) {
        double square = 0;
        for (int64_t row = begin; row < end; row += rows)
          square += activate_rows(o, row, std::min(row + rows, end));
        return square;
      },
      1);
  raise_unless_finite(sum, o.guard);
}

ALTMIN_INSTANTIATE(activate, void, Activate)

}  // namespace altmin::cpu::ALTMIN_ISA
