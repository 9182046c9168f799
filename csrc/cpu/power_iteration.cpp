#include "ops/power_iteration.h"

#include <cmath>

#include "parallel.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// Four rows at a time: four sums are under way at once, and v and t are touched once for all.
template <typename T>
void add_four_rows(const T* weight, const T* __restrict v, T* __restrict t, int64_t n) {
  const T *a = weight, *b = a + n, *c = b + n, *d = c + n;
  T dot_a = 0, dot_b = 0, dot_c = 0, dot_d = 0;
#pragma omp simd reduction(+ : dot_a, dot_b, dot_c, dot_d)
  for (int64_t j = 0; j < n; ++j) {
    dot_a += a[j] * v[j];
    dot_b += b[j] * v[j];
    dot_c += c[j] * v[j];
    dot_d += d[j] * v[j];
  }
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) t[j] += dot_a * a[j] + dot_b * b[j] + dot_c * c[j] + dot_d * d[j];
}

template <typename T>
void add_row(const T* w, const T* __restrict v, T* __restrict t, int64_t n) {
  T dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t j = 0; j < n; ++j) dot += w[j] * v[j];
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) t[j] += dot * w[j];
}

// t += w (w . v) for every row w, which is used twice while it is in the cache. Threads own ranges of rows and a t
// each, side by side in `sums`.
template <typename T>
void iterate(const PowerIterationMatrix<T>& o, T* sums) {
  const int64_t n = o.columns;
  const int threads = threads_for(o.rows * n);
  std::fill_n(sums, threads * n, T(0));
  parallel_ranges(
      n > 0 ? o.rows : 0, threads,
      [&](int thread, int64_t begin, int64_t end) {
        T* const t = sums + thread * n;
        int64_t i = begin;
        for (; i + 4 <= end; i += 4) add_four_rows(o.weight + i * n, o.vector, t, n);
        for (; i < end; ++i) add_row(o.weight + i * n, o.vector, t, n);
      },
      1);
  for (int thread = 1; thread < threads; ++thread)
    for (int64_t j = 0; j < n; ++j) sums[j] += sums[thread * n + j];
  double square = 0;
  for (int64_t j = 0; j < n; ++j) square += static_cast<double>(sums[j]) * static_cast<double>(sums[j]);
  const double norm = std::sqrt(square);
  *o.sigma_squared = norm;
  if (!(norm > 0) || std::isinf(norm)) return;
  const double inverse = 1 / norm;  // of a tiny matrix no number of float
  for (int64_t j = 0; j < n; ++j) o.vector[j] = static_cast<T>(inverse * static_cast<double>(sums[j]));
}

}  // namespace

template <typename T>
void power_iteration(const PowerIteration<T>& o) {
  int64_t size = 0;
  for (const PowerIterationMatrix<T>& matrix : o.matrices)
    size = std::max(size, threads_for(matrix.rows * matrix.columns) * matrix.columns);
  const Scratch<T> sums(1, size);
  for (const PowerIterationMatrix<T>& matrix : o.matrices) iterate(matrix, sums[0]);
}

ALTMIN_INSTANTIATE(power_iteration, void, PowerIteration)

}  // namespace altmin::cpu::ALTMIN_ISA
