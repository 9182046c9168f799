#include "ops/power_iteration.h"

#include <cmath>
#include <vector>

#include "parallel.h"

namespace altmin::cpu::ALTMIN_ISA {

// Each row w is used twice while it is in the cache: t += w (w . v). Threads own ranges of rows and a t each.
template <typename T>
void power_iteration(const PowerIteration<T>& o) {
  const int64_t n = o.columns;
  const int threads = threads_for(o.rows * n);
  static thread_local std::vector<T> buffer;  // grows once, to the largest stage
  buffer.assign(static_cast<size_t>(threads * n), T(0));
  T* const sums = buffer.data();
  parallel_ranges(
      o.rows, threads,
      [&](int thread, int64_t begin, int64_t end) {
        T* __restrict t = sums + thread * n;
        const T* __restrict v = o.vector;
        for (int64_t i = begin; i < end; ++i) {
          const T* __restrict w = o.weight + i * n;
          T dot = 0;
#pragma omp simd reduction(+ : dot)
          for (int64_t j = 0; j < n; ++j) dot += w[j] * v[j];
#pragma omp simd
          for (int64_t j = 0; j < n; ++j) t[j] += dot * w[j];
        }
      },
      1);
  for (int thread = 1; thread < threads; ++thread)
    for (int64_t j = 0; j < n; ++j) sums[j] += sums[thread * n + j];
  double square = 0;
  for (int64_t j = 0; j < n; ++j) square += static_cast<double>(sums[j]) * static_cast<double>(sums[j]);
  const double norm = std::sqrt(square);
  *o.sigma_squared = norm;
  if (!(norm > 0) || std::isinf(norm)) return;
  const T inverse = static_cast<T>(1 / norm);
  for (int64_t j = 0; j < n; ++j) o.vector[j] = sums[j] * inverse;
}

ALTMIN_INSTANTIATE(power_iteration, void, PowerIteration)

}  // namespace altmin::cpu::ALTMIN_ISA
