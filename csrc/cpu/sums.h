// Sums over arrays that keep the vector units busy.
#pragma once

#include <algorithm>
#include <cstdint>

namespace altmin::cpu::ALTMIN_ISA {

// Four sums side by side: a single one would wait for its own last addition at every step.
template <typename T>
inline T plain_sum_of_squares(const T* x, int64_t n) {
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

// In T where the squares are numbers of T, else in double: an x of float has no such limits.
template <typename T>
inline double sum_of_squares(const T* x, int64_t n) {
  const T plain = plain_sum_of_squares(x, n);
  if ((plain > T(1e-25)) & (plain < T(1e35))) return plain;
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

// Column sums of many rows. Added one by one, thousands of rows would lose the digits that pairwise sums like
// torch's keep: here 32 at a time are added in T, and those sums in double.
template <typename T>
class ColumnSums {
 public:
  // `block` and `total` lend memory, `width` numbers each.
  ColumnSums(T* block, double* total, int64_t width) : block_(block), total_(total), width_(width) {
    std::fill_n(block_, width_, T(0));
    std::fill_n(total_, width_, 0.0);
  }
  void add(const T* __restrict row) {
    T* __restrict block = block_;
#pragma omp simd
    for (int64_t j = 0; j < width_; ++j) block[j] += row[j];
    if (++rows_ % 32 == 0) close_block();
  }
  // All rows' sums, in double.
  const double* totals() {
    close_block();
    return total_;
  }

 private:
  void close_block() {
#pragma omp simd
    for (int64_t j = 0; j < width_; ++j) {
      total_[j] += block_[j];
      block_[j] = T(0);
    }
  }
  T* block_;
  double* total_;
  int64_t width_, rows_ = 0;
};

// sums[j] = sum over the rows of x[row][j], by a single thread.
template <typename T>
inline void sum_columns(const T* x, int64_t rows, int64_t width, T* sums) {
  constexpr int64_t columns = 256;
  for (int64_t begin = 0; begin < width; begin += columns) {
    const int64_t n = std::min(columns, width - begin);
    T block[columns];
    double total[columns];
    ColumnSums<T> part(block, total, n);
    for (int64_t row = 0; row < rows; ++row) part.add(x + row * width + begin);
    const double* totals = part.totals();
    for (int64_t j = 0; j < n; ++j) sums[begin + j] = static_cast<T>(totals[j]);
  }
}

}  // namespace altmin::cpu::ALTMIN_ISA
