// Products of small matrices with what lies in lanes: the tile that is summed up stays in registers.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "lanes.h"

namespace altmin::cpu::ALTMIN_ISA {

// How many vectors hold the 16 lanes of one number.
template <typename T>
inline constexpr int lane_vectors = static_cast<int>(lanes / vector_width<T>);

// out[r] = start[r] + sum over k of weight[k * stride + r] in[k] for `rows` rows; numbers in `in` are `in_stride`
// apart, in start and out `out_stride`, each `vectors` vectors wide. A null start is zero.
template <typename T, int vectors, int rows>
void product_tile(const T* weight, int64_t stride, int64_t inputs, const T* in, int64_t in_stride,
                  const T* start, T* out, int64_t out_stride) {
  constexpr int64_t width = vector_width<T>;
  Vector<T> sum[rows][vectors];
#pragma GCC unroll 32
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v)
      sum[r][v] = start ? load(start + r * out_stride + v * width) : Vector<T>{};
  }
  for (int64_t k = 0; k < inputs; ++k) {
    Vector<T> x[vectors];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) x[v] = load(in + k * in_stride + v * width);
#pragma GCC unroll 32
    for (int r = 0; r < rows; ++r) {
      const Vector<T> w = broadcast(weight[k * stride + r]);
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sum[r][v] += w * x[v];
    }
  }
#pragma GCC unroll 32
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) store(out + r * out_stride + v * width, sum[r][v]);
  }
}

// Cuts `count` rows into as few tiles of at most `most` as there can be, of sizes that differ by one at most.
struct Tiles {
  int64_t count, size, larger;  // the first `larger` tiles have a row more than `size`

  Tiles(int64_t rows, int64_t most) : count((rows + most - 1) / most) {
    size = count ? rows / count : 0;
    larger = count ? rows % count : 0;
  }
  int64_t first(int64_t tile) const { return tile * size + std::min(tile, larger); }
  int64_t rows(int64_t tile) const { return size + (tile < larger); }
  // Calls body(first row, rows) for every tile.
  template <typename Body>
  void each(const Body& body) const {
    for (int64_t tile = 0; tile < count; ++tile) body(first(tile), rows(tile));
  }
};

// out = start + M in, M given by its columns: M[r][k] = weight[k * stride + r].
template <typename T, int vectors>
class Product {
  using Tile = void (*)(const T*, int64_t, int64_t, const T*, int64_t, const T*, T*, int64_t);
  template <int... rows>
  static constexpr std::array<Tile, sizeof...(rows)> tiles_of(std::integer_sequence<int, rows...>) {
    return {&product_tile<T, vectors, rows + 1>...};
  }

 public:
  // A row takes `vectors` registers; some are left for what is multiplied.
  static constexpr int most_rows =
      vector_registers * 7 / 8 / vectors > 1 ? vector_registers * 7 / 8 / vectors : 1;
  // The product_tile of so many rows, at most most_rows.
  static Tile tile(int64_t rows) {
    static constexpr auto tiles = tiles_of(std::make_integer_sequence<int, most_rows>{});
    return tiles[static_cast<size_t>(rows - 1)];
  }

  Product(int64_t rows, int64_t inputs, int64_t stride, int64_t in_stride = lanes, int64_t out_stride = lanes)
      : cut_(rows, most_rows),
        inputs_(inputs),
        stride_(stride),
        in_stride_(in_stride),
        out_stride_(out_stride) {}

  void operator()(const T* weight, const T* in, const T* start, T* out) const {
    cut_.each([&](int64_t row, int64_t rows) {
      tile(rows)(weight + row, stride_, inputs_, in, in_stride_, start ? start + row * out_stride_ : nullptr,
                 out + row * out_stride_, out_stride_);
    });
  }

 private:
  Tiles cut_;
  int64_t inputs_, stride_, in_stride_, out_stride_;
};

template <typename T>
using LaneProduct = Product<T, lane_vectors<T>>;

}  // namespace altmin::cpu::ALTMIN_ISA
