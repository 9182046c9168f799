// Sums over arrays that keep the vector units busy.
#pragma once

#include <cstdint>

namespace altmin::cpu::ALTMIN_ISA {

// Four sums side by side: a single one would wait for its own last addition at every step.
template <typename T>
inline T sum_of_squares(const T* x, int64_t n) {
  const int64_t quarter = n / 4 / 16 * 16;
  const T *a = x, *b = x + quarter, *c = b + quarter, *d = c + quarter;
  T sum_a = 0, sum_b = 0, sum_c = 0, sum_d = 0;
#pragma omp simd reduction(+ : sum_a, sum_b, sum_c, sum_d)
  for (int64_t i = 0; i < quarter; ++i) {
    sum_a += a[i] * a[i];
    sum_b += b[i] * b[i];
    sum_c += c[i] * c[i];
    sum_d += d[i] * d[i];
  }
  T rest = 0;
#pragma omp simd reduction(+ : rest)
  for (int64_t i = 4 * quarter; i < n; ++i) rest += x[i] * x[i];
  return (sum_a + sum_b) + (sum_c + sum_d) + rest;
}

}  // namespace altmin::cpu::ALTMIN_ISA
