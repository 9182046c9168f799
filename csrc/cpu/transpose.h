// Squares of numbers transposed within vector registers, and the tiles that a batch changes its layout in.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "parallel.h"
#include "vector.h"

namespace altmin::cpu::ALTMIN_ISA {

// The elements of two vectors in turn: of their lower halves, or of their upper ones.
template <typename T, bool upper, int... i>
inline Vector<T> zip(const Vector<T> a, const Vector<T> b, std::integer_sequence<int, i...>) {
  constexpr int width = sizeof...(i);
  return __builtin_shufflevector(a, b, (i / 2 + i % 2 * width + (upper ? width / 2 : 0))...);
}

// As many times as the width has bits, the upper half of the rows is zipped into the lower one.
template <typename T>
inline void transpose(Vector<T> (&rows)[vector_width<T>]) {
  constexpr int width = vector_width<T>;
  constexpr auto indices = std::make_integer_sequence<int, width>{};
  for (int round = 1; round < width; round *= 2) {
    Vector<T> zipped[width];
    for (int i = 0; i < width / 2; ++i) {
      zipped[2 * i] = zip<T, false>(rows[i], rows[i + width / 2], indices);
      zipped[2 * i + 1] = zip<T, true>(rows[i], rows[i + width / 2], indices);
    }
    for (int i = 0; i < width; ++i) rows[i] = zipped[i];
  }
}

// to[i][lane] = rows[lane][i] for the first `columns` of rows that are `stride` apart; 0 beyond the last of `samples`.
template <typename T>
void to_lanes(const T* rows, int64_t stride, int64_t samples, int64_t columns, T* to) {
  constexpr int64_t side = vector_width<T>;
  const int64_t whole = samples == lanes ? columns / side * side : 0;
  for (int64_t i = 0; i < whole; i += side) {
    for (int64_t lane = 0; lane < lanes; lane += side) {
      Vector<T> square[side];
      for (int64_t j = 0; j < side; ++j) square[j] = load(rows + (lane + j) * stride + i);
      transpose<T>(square);
      for (int64_t j = 0; j < side; ++j) store(to + (i + j) * lanes + lane, square[j]);
    }
  }
  for (int64_t i = whole; i < columns; ++i)
    for (int64_t lane = 0; lane < lanes; ++lane)
      to[i * lanes + lane] = lane < samples ? rows[lane * stride + i] : T(0);
}

// rows[lane][i] = from[i][lane] for the first `samples` lanes.
template <typename T>
void from_lanes(const T* from, int64_t samples, int64_t columns, T* rows, int64_t stride) {
  constexpr int64_t side = vector_width<T>;
  const int64_t whole = samples == lanes ? columns / side * side : 0;
  for (int64_t i = 0; i < whole; i += side) {
    for (int64_t lane = 0; lane < lanes; lane += side) {
      Vector<T> square[side];
      for (int64_t j = 0; j < side; ++j) square[j] = load(from + (i + j) * lanes + lane);
      transpose<T>(square);
      for (int64_t j = 0; j < side; ++j) store(rows + (lane + j) * stride + i, square[j]);
    }
  }
  for (int64_t lane = 0; lane < samples; ++lane)
    for (int64_t i = whole; i < columns; ++i) rows[lane * stride + i] = from[i * lanes + lane];
}

// Calls body(group, column, columns) for tiles of 16 samples by up to 16 columns: a cache line of floats each way,
// which is used up before a batch whose rows are a power of two apart drives it out.
template <typename Body>
void for_tiles(int64_t batch, int64_t width, const Body& body) {
  const int64_t tiles = (width + lanes - 1) / lanes;
  parallel_ranges(
      groups_of(batch) * tiles, threads_for(batch * width),
      [&](int, int64_t begin, int64_t end) {
        for (int64_t tile = begin; tile < end; ++tile) {
          const int64_t column = tile % tiles * lanes;
          body(tile / tiles, column, std::min(lanes, width - column));
        }
      },
      1);
}

}  // namespace altmin::cpu::ALTMIN_ISA
