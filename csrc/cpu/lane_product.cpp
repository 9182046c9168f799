#include "lane_product.h"

#include <array>
#include <utility>

#include "ops/backend.h"

ALTMIN_WIDE_PART;

namespace altmin::cpu::ALTMIN_ISA {

namespace {

template <typename T, int vectors, int rows>
void multiply_tile(const T* weight, int64_t stride, int64_t inputs, const T* in, int64_t in_stride,
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

template <typename T, int vectors, int... rows>
constexpr std::array<ProductTile<T>, sizeof...(rows)> tiles_of(std::integer_sequence<int, rows...>) {
  return {&multiply_tile<T, vectors, rows + 1>...};
}

template <typename T, int vectors>
constexpr auto tiles = tiles_of<T, vectors>(std::make_integer_sequence<int, most_product_rows(vectors)>{});

}  // namespace

template <typename T>
ProductTile<T> product_tile(int vectors, int64_t rows) {
  const auto place = static_cast<size_t>(rows - 1);
  if (vectors == 1) return tiles<T, 1>[place];
  if (vectors == 2) return tiles<T, 2>[place];
  return tiles<T, lane_vectors<T>>[place];
}

template ProductTile<float> product_tile(int, int64_t);
template ProductTile<double> product_tile(int, int64_t);

}  // namespace altmin::cpu::ALTMIN_ISA
