#include "ops/bcd_columns.h"

#include <limits>

#include "ops/proximal.h"
#include "parallel.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

template <typename T>
T dot(const T* __restrict a, const T* __restrict b, int64_t n) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) sum += a[j] * b[j];
  return sum;
}

}  // namespace

// The rows of W are independent problems with the same matrix, whose column j is its row j.
template <typename T>
void bcd_columns(const BcdColumns<T>& o) {
  const int64_t n = o.columns;
  T largest = 0;
  for (int64_t j = 0; j < n; ++j) largest = std::max(largest, o.gram[j * n + j]);
  const T smallest = largest * std::numeric_limits<T>::epsilon();
  const T threshold = static_cast<T>(o.scalars->threshold);
  parallel_ranges(
      o.rows, threads_for(o.rows * n),
      [&](int, int64_t begin, int64_t end) {
        for (int sweep = 0; sweep < o.sweeps; ++sweep) {
          for (int64_t j = 0; j < n; ++j) {
            const T* column = o.gram + j * n;
            const T diagonal = column[j];
            if (diagonal <= smallest) continue;  // a NaN goes on, to be seen
            const bool free = o.has_bias && j == n - 1;
            for (int64_t row = begin; row < end; ++row) {
              T* weight = o.weight + row * n;
              T w = weight[j] + (o.cross[row * n + j] - dot(weight, column, n)) / diagonal;
              if (threshold > T(0) && !free) w = soft_threshold(w, threshold / diagonal);
              if (o.nonnegative && !free) w = w > T(0) ? w : w * T(0);
              weight[j] = w;
            }
          }
        }
      },
      1);
}

ALTMIN_INSTANTIATE(bcd_columns, void, BcdColumns)

}  // namespace altmin::cpu::ALTMIN_ISA
