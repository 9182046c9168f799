// Sums over arrays that keep the vector units busy.
#pragma once

#include <algorithm>
#include <cstdint>

#include "vector.h"

namespace altmin::cpu::ALTMIN_ISA {

// Four vectors of sums side by side: a single one would wait for its own last addition at every step.
template <typename T>
inline T plain_sum_of_squares(const T* x, int64_t n) {
  constexpr int64_t width = vector_width<T>;
  Vector<T> sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * width <= n; i += 4 * width) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const Vector<T> v = load(x + i + k * width);
      sums[k] += v * v;
    }
  }
  for (; i + width <= n; i += width) {
    const Vector<T> v = load(x + i);
    sums[0] += v * v;
  }
  T rest = 0;
  for (; i < n; ++i) rest += x[i] * x[i];
  return sum_of_lanes<T>((sums[0] + sums[1]) + (sums[2] + sums[3])) + rest;
}

// Squares whose plain sum in T says too little: an x of float has no such limits.
template <typename T>
inline double limitless_sum_of_squares(const T* x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

// `plain`, the sum of squares of x in T, where the squares are numbers of T, else their sum in double.
template <typename T>
inline double sum_of_squares(const T* x, int64_t n, const T plain) {
  return (plain > T(1e-25)) & (plain < T(1e35)) ? static_cast<double>(plain) : limitless_sum_of_squares(x, n);
}

template <typename T>
inline double sum_of_squares(const T* x, int64_t n) {
  return sum_of_squares(x, n, plain_sum_of_squares(x, n));
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
    T* __restrict block = sums_with(1);
#pragma omp simd
    for (int64_t j = 0; j < width_; ++j) block[j] += row[j];
  }
  // The sums under way, to which the caller then adds so many rows.
  T* sums_with(int64_t rows) {
    if (rows_ + rows > 32) close_block();
    rows_ += rows;
    return block_;
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
    rows_ = 0;
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
