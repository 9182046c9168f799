#include "convolution.h"

#include <utility>

#include "ops/backend.h"

ALTMIN_WIDE_PART;

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// Pixels computed side by side, so that each weight that is broadcast is used for all of them: with the filters, as
// many sums as there are registers for.
constexpr int pixels_at_once = vector_registers == 32 ? 4 : 2;

template <typename T>
struct Row {
  const Filters<T>& filters;
  const T* weights;  // of the block of filters
  const Images<T>& images;
  int64_t top, padding;
  const T* bias;  // of the block, or null
  T* out;
  int64_t channel_stride;
};

// The rows of the kernel that lie in the images.
template <typename T>
std::pair<int64_t, int64_t> kernel_rows(const Row<T>& o) {
  return {std::max<int64_t>(0, -o.top), std::min(o.filters.height, o.images.height - o.top)};
}

// `pixels` of them from x on, all of whose taps lie in the images.
template <int filters, int pixels, typename T>
void convolve_inside(const Row<T>& o, int64_t lane, int64_t x) {
  const int64_t width = o.filters.width, height = o.filters.height;
  const auto [begin, end] = kernel_rows(o);
  Vector<T> sum[filters][pixels];
#pragma GCC unroll 8
  for (int c = 0; c < filters; ++c)
#pragma GCC unroll 8
    for (int p = 0; p < pixels; ++p) sum[c][p] = o.bias ? broadcast(o.bias[c]) : Vector<T>{};
  for (int64_t input = 0; input < o.filters.inputs; ++input) {
    for (int64_t i = begin; i < end; ++i) {
      const T* from = o.images.pixels + input * o.images.channel_stride +
                      ((o.top + i) * o.images.width + x - o.padding) * lanes + lane;
      const T* weights = o.weights + (input * height + i) * width * filters;
      for (int64_t j = 0; j < width; ++j) {
        Vector<T> pixel[pixels];
#pragma GCC unroll 8
        for (int p = 0; p < pixels; ++p) pixel[p] = load(from + (j + p) * lanes);
#pragma GCC unroll 8
        for (int c = 0; c < filters; ++c) {
          const Vector<T> weight = broadcast(weights[j * filters + c]);
#pragma GCC unroll 8
          for (int p = 0; p < pixels; ++p) sum[c][p] += weight * pixel[p];
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int c = 0; c < filters; ++c)
#pragma GCC unroll 8
    for (int p = 0; p < pixels; ++p) store(o.out + c * o.channel_stride + (x + p) * lanes + lane, sum[c][p]);
}

// Pixel x alone, which may be so near to an edge that some of its taps lie outside. Two input channels at a time,
// since few sums would wait for their own last additions.
template <int filters, typename T>
void convolve_at_edge(const Row<T>& o, int64_t lane, int64_t x) {
  const int64_t width = o.filters.width, inputs = o.filters.inputs, stride = o.images.channel_stride;
  const int64_t left = std::max<int64_t>(0, o.padding - x),
                right = std::min(width, o.images.width + o.padding - x);
  const int64_t filter_stride = o.filters.height * width * filters;
  const auto [begin, end] = kernel_rows(o);
  Vector<T> even[filters], odd[filters] = {};
#pragma GCC unroll 8
  for (int c = 0; c < filters; ++c) even[c] = o.bias ? broadcast(o.bias[c]) : Vector<T>{};
  for (int64_t i = begin; i < end; ++i) {
    for (int64_t j = left; j < right; ++j) {
      const T* from = o.images.pixels + ((o.top + i) * o.images.width + x - o.padding + j) * lanes + lane;
      const T* weights = o.weights + (i * width + j) * filters;
      int64_t input = 0;
      for (; input + 2 <= inputs; input += 2, from += 2 * stride, weights += 2 * filter_stride) {
        const Vector<T> first = load(from), second = load(from + stride);
#pragma GCC unroll 8
        for (int c = 0; c < filters; ++c) {
          even[c] += broadcast(weights[c]) * first;
          odd[c] += broadcast(weights[filter_stride + c]) * second;
        }
      }
      if (input == inputs) continue;
      const Vector<T> last = load(from);
#pragma GCC unroll 8
      for (int c = 0; c < filters; ++c) even[c] += broadcast(weights[c]) * last;
    }
  }
#pragma GCC unroll 8
  for (int c = 0; c < filters; ++c) store(o.out + c * o.channel_stride + x * lanes + lane, even[c] + odd[c]);
}

template <int filters, typename T>
void convolve_block(const Row<T>& o, const int64_t columns) {
  // Between them all taps of a kernel's row lie in the images.
  const int64_t left = std::min(o.padding, columns);
  const int64_t right = std::max(left, std::min(columns, o.images.width - o.filters.width + 1 + o.padding));
  const int64_t inside = right - left < pixels_at_once ? left : right;
  for (int64_t lane = 0; lane < lanes; lane += vector_width<T>) {
    for (int64_t x = 0; x < left; ++x) convolve_at_edge<filters>(o, lane, x);
    // The last pixels may be computed a second time.
    for (int64_t x = left; x < inside; x += pixels_at_once)
      convolve_inside<filters, pixels_at_once>(o, lane, std::min(x, right - pixels_at_once));
    for (int64_t x = inside; x < columns; ++x) convolve_at_edge<filters>(o, lane, x);
  }
}

}  // namespace

template <typename T>
void convolve_row(const Filters<T>& filters, int64_t first, int64_t count, const Images<T>& images, int64_t top,
                  int64_t padding, const T* bias, T* out, int64_t columns, int64_t channel_stride) {
  const T* weights = filters.weights + first * filters.inputs * filters.height * filters.width;
  const Row<T> row = {filters, weights,       images, top, padding, bias ? bias + first : nullptr,
                      out,     channel_stride};
  static_assert(most_filters == 6);
  switch (count) {
    case 1: return convolve_block<1>(row, columns);
    case 2: return convolve_block<2>(row, columns);
    case 3: return convolve_block<3>(row, columns);
    case 4: return convolve_block<4>(row, columns);
    case 5: return convolve_block<5>(row, columns);
    case 6: return convolve_block<6>(row, columns);
  }
}

#define ALTMIN_INSTANTIATE_CONVOLVE_ROW(T)                                                            \
  template void convolve_row(const Filters<T>&, int64_t, int64_t, const Images<T>&, int64_t, int64_t, \
                             const T*, T*, int64_t, int64_t);
ALTMIN_INSTANTIATE_CONVOLVE_ROW(float)
ALTMIN_INSTANTIATE_CONVOLVE_ROW(double)

}  // namespace altmin::cpu::ALTMIN_ISA
