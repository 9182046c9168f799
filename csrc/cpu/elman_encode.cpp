#include "ops/elman_encode.h"

#include <vector>

#include "activation_loops.h"
#include "elman.h"
#include "lane_product.h"
#include "parallel.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// The columns of W, one after the other: then a time step's are read as they lie.
template <typename T>
std::vector<T> transposed(const T* matrix, int64_t rows, int64_t columns) {
  std::vector<T> result(static_cast<size_t>(rows * columns));
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) result[static_cast<size_t>(j * rows + i)] = matrix[i * columns + j];
  return result;
}

// [U V b] by columns.
template <typename T>
std::vector<T> columns_of(const ElmanEncode<T>& o) {
  std::vector<T> columns(static_cast<size_t>((o.width + o.n_in + 1) * o.width));
  T* to = columns.data();
  for (int64_t j = 0; j < o.width; ++j)
    for (int64_t i = 0; i < o.width; ++i) *to++ = o.recurrent_weight[i * o.width + j];
  for (int64_t j = 0; j < o.n_in; ++j)
    for (int64_t i = 0; i < o.width; ++i) *to++ = o.input_weight[i * o.n_in + j];
  for (int64_t i = 0; i < o.width; ++i)
    *to++ = (o.input_bias ? o.input_bias[i] : T(0)) + (o.recurrent_bias ? o.recurrent_bias[i] : T(0));
  return columns;
}

}  // namespace

template <typename T>
void elman_encode(const ElmanEncode<T>& o) {
  const int64_t d = o.width, n = d * lanes;
  if (o.batch == 0) return;
  if (o.steps == 0 || d == 0) {
    std::fill_n(o.product, o.batch * o.n_out, T(0));
    return;
  }
  const std::vector<T> weight = columns_of(o),
                       output_weight = transposed(o.output_weight, o.n_out, o.steps * d);
  const LaneProduct<T> encode(d, d + o.n_in + 1, d), read(o.n_out, d, o.n_out);
  const int threads = threads_for(o.batch * o.steps * d);
  const Scratch<T> memory(threads, (2 * d + o.n_in + 1 + o.n_out) * lanes);
  parallel_ranges(
      groups_of(o.batch), threads,
      [&](int thread, int64_t begin, int64_t end) {
        T* const below = memory[thread];  // [h_{t-1}; x_t; 1]
        T* const activation = below + (d + o.n_in + 1) * lanes;
        T* const product = activation + n;
        for (int64_t group = begin; group < end; ++group) {
          const Samples samples(group, o.batch);
          std::fill_n(below, n, T(0));
          samples.fill_ones(below + (d + o.n_in) * lanes);
          std::fill_n(product, o.n_out * lanes, T(0));
          for (int64_t t = 0; t < o.steps; ++t) {
            T* const hidden = o.hidden + (group * o.steps + t) * n;
            samples.interleave(o.x + t * o.n_in, o.steps * o.n_in, o.n_in, below + n);
            encode(weight.data(), below, nullptr, hidden);
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) below[i] = hidden[i] = hyperbolic_tangent(hidden[i]);
            activation_values(o.kind, o.parameter, below, activation, n);
            read(output_weight.data() + t * d * o.n_out, activation, product, product);
          }
          samples.deinterleave(product, o.n_out, o.product, o.n_out);
        }
      },
      1);
}

ALTMIN_INSTANTIATE(elman_encode, void, ElmanEncode)

}  // namespace altmin::cpu::ALTMIN_ISA
