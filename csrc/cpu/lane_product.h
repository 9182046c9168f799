// Products of small matrices with what lies in lanes: the tile that is summed up stays in registers.
#pragma once

#include <algorithm>
#include <cstdint>

#include "vector.h"

namespace altmin::cpu::ALTMIN_ISA {

// How many vectors hold the 16 lanes of one number.
template <typename T>
inline constexpr int lane_vectors = static_cast<int>(lanes / vector_width<T>);

// out[r] = start[r] + sum over k of weight[k * stride + r] in[k] for some rows; numbers in `in` are `in_stride` apart, in
// start and out `out_stride`. A null start is zero.
template <typename T>
using ProductTile = void (*)(const T* weight, int64_t stride, int64_t inputs, const T* in, int64_t in_stride,
                             const T* start, T* out, int64_t out_stride);

// A row takes `vectors` registers; some are left for what is multiplied.
constexpr int most_product_rows(int vectors) {
  return vector_registers * 7 / 8 / vectors > 1 ? vector_registers * 7 / 8 / vectors : 1;
}

// That of so many rows, each `vectors` vectors wide: one, two, or as many as lanes take. They are compiled once for all
// ops, unrolled for every number of rows.
template <typename T>
ProductTile<T> product_tile(int vectors, int64_t rows);

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
 public:
  static constexpr int most_rows = most_product_rows(vectors);
  static ProductTile<T> tile(int64_t rows) { return product_tile<T>(vectors, rows); }

  Product(int64_t rows, int64_t inputs, int64_t stride, int64_t in_stride = lanes, int64_t out_stride = lanes)
      : cut_(rows, most_rows),
        tile_(cut_.size > 0 ? tile(cut_.size) : nullptr),
        larger_tile_(cut_.larger > 0 ? tile(cut_.size + 1) : nullptr),
        inputs_(inputs),
        stride_(stride),
        in_stride_(in_stride),
        out_stride_(out_stride) {}

  void operator()(const T* weight, const T* in, const T* start, T* out) const {
    cut_.each([&](int64_t row, int64_t rows) {
      const ProductTile<T> product = rows > cut_.size ? larger_tile_ : tile_;
      product(weight + row, stride_, inputs_, in, in_stride_, start ? start + row * out_stride_ : nullptr,
              out + row * out_stride_, out_stride_);
    });
  }

 private:
  Tiles cut_;
  ProductTile<T> tile_, larger_tile_;
  int64_t inputs_, stride_, in_stride_, out_stride_;
};

template <typename T>
using LaneProduct = Product<T, lane_vectors<T>>;

}  // namespace altmin::cpu::ALTMIN_ISA
