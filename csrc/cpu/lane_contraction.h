// Sums over lanes and time of products of what lies in lanes.
#pragma once

#include <array>
#include <cstdint>
#include <utility>

#include "lane_product.h"

namespace altmin::cpu::ALTMIN_ISA {

// sum[i][j] += sum over p < count of left[p][i] right[p][j], lane by lane; what belongs to one p is `stride` from
// what belongs to the next.
template <typename T, int rows, int columns>
void contraction_tile(const T* left, const T* right, int64_t stride, int64_t count, T* sum,
                      int64_t sum_stride) {
  constexpr int64_t width = vector_width<T>;
  for (int64_t v = 0; v < lanes; v += width) {
    Vector<T> own[rows][columns];
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < columns; ++j) own[i][j] = load(sum + i * sum_stride + j * lanes + v);
    }
    for (int64_t p = 0; p < count; ++p) {
      const T *a = left + p * stride + v, *b = right + p * stride + v;
      Vector<T> x[columns];
#pragma GCC unroll 8
      for (int j = 0; j < columns; ++j) x[j] = load(b + j * lanes);
#pragma GCC unroll 8
      for (int i = 0; i < rows; ++i) {
        const Vector<T> y = load(a + i * lanes);
#pragma GCC unroll 8
        for (int j = 0; j < columns; ++j) own[i][j] += y * x[j];
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < columns; ++j) store(sum + i * sum_stride + j * lanes + v, own[i][j]);
    }
  }
}

// The sum over lanes, time and groups of left_i right_j. Within a group each lane adds up its own in T; groups are
// added in double.
template <typename T>
class LaneContraction {
  static constexpr int side = vector_registers == 32 ? 5 : 3;  // of the square of sums that registers hold
  using Tile = void (*)(const T*, const T*, int64_t, int64_t, T*, int64_t);
  template <int... index>
  static constexpr std::array<Tile, sizeof...(index)> tiles_of(std::integer_sequence<int, index...>) {
    return {&contraction_tile<T, index / side + 1, index % side + 1>...};
  }
  static constexpr auto tiles = tiles_of(std::make_integer_sequence<int, side * side>{});

 public:
  // `sums` lends memory for rows * columns * lanes numbers; `totals`, for rows * columns, has the sums in the end. What
  // lies above the diagonal that begins at `symmetric_from` of the first column need not be summed up.
  LaneContraction(int64_t rows, int64_t columns, int64_t stride, int64_t symmetric_from, T* sums,
                  double* totals)
      : cut_rows_(rows, side),
        cut_columns_(columns, side),
        columns_(columns),
        symmetric_from_(symmetric_from),
        stride_(stride),
        size_(rows * columns),
        sums_(sums),
        totals_(totals) {
    std::fill_n(sums_, size_ * lanes, T(0));
    std::fill_n(totals_, size_, 0.0);
  }

  void add(const T* left, const T* right, int64_t count) {
    cut_columns_.each([&](int64_t column, int64_t columns) {
      cut_rows_.each([&](int64_t row, int64_t rows) {
        if (row >= symmetric_from_ && column >= row + rows - symmetric_from_) return;
        tiles[static_cast<size_t>((rows - 1) * side + columns - 1)](
            left + row * lanes, right + column * lanes, stride_, count,
            sums_ + (row * columns_ + column) * lanes, columns_ * lanes);
      });
    });
  }

  // Ends a group.
  void close() {
    for (int64_t i = 0; i < size_; ++i) {
      T sum = 0;
      for (int64_t lane = 0; lane < lanes; ++lane) sum += sums_[i * lanes + lane];
      totals_[i] += sum;
    }
    std::fill_n(sums_, size_ * lanes, T(0));
  }

 private:
  Tiles cut_rows_, cut_columns_;
  int64_t columns_, symmetric_from_, stride_, size_;
  T* sums_;
  double* totals_;
};

}  // namespace altmin::cpu::ALTMIN_ISA
