#include "convolution.h"

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

// Pixels x to x + pixels of the row, of the taps [begin, end) of each row of the kernel.
template <int filters, int pixels, typename T>
inline void convolve_pixels(const Row<T>& o, int64_t lane, int64_t x, int64_t begin, int64_t end) {
  const int64_t width = o.filters.width, height = o.filters.height;
  const int64_t above = std::max<int64_t>(0, -o.top), below = std::min(height, o.images.height - o.top);
  Vector<T> sum[filters][pixels];
#pragma GCC unroll 8
  for (int c = 0; c < filters; ++c)
#pragma GCC unroll 8
    for (int p = 0; p < pixels; ++p) sum[c][p] = o.bias ? broadcast(o.bias[c]) : Vector<T>{};
  for (int64_t input = 0; input < o.filters.inputs; ++input) {
    for (int64_t i = above; i < below; ++i) {
      const T* from = o.images.pixels + input * o.images.channel_stride +
                      ((o.top + i) * o.images.width + x - o.padding) * lanes + lane;
      const T* weights = o.weights + (input * height + i) * width * filters;
      for (int64_t j = begin; j < end; ++j) {
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

template <int filters, typename T>
void convolve_block(const Row<T>& o, const int64_t columns) {
  const int64_t width = o.filters.width;
  // Between them all taps of a kernel's row lie in the image.
  const int64_t left = std::min(o.padding, columns);
  const int64_t right = std::max(left, std::min(columns, o.images.width - width + 1 + o.padding));
  for (int64_t lane = 0; lane < lanes; lane += vector_width<T>) {
    const auto at_edge = [&](int64_t x) {
      const int64_t begin = std::max<int64_t>(0, o.padding - x);
      const int64_t end = std::min(width, o.images.width + o.padding - x);
      convolve_pixels<filters, 1>(o, lane, x, begin, end);
    };
    for (int64_t x = 0; x < left; ++x) at_edge(x);
    if (right - left < pixels_at_once) {
      for (int64_t x = left; x < right; ++x) at_edge(x);
    } else {
      // The last pixels may be computed a second time.
      for (int64_t x = left; x < right; x += pixels_at_once)
        convolve_pixels<filters, pixels_at_once>(o, lane, std::min(x, right - pixels_at_once), 0, width);
    }
    for (int64_t x = right; x < columns; ++x) at_edge(x);
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
