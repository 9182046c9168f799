#include "ops/convolution_weight_gradient.h"

#include "convolution.h"
#include "sums.h"
#include "transpose.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// What the residual of a block of output channels may take up, for a few rows, so that it stays near while every
// weight is multiplied with it.
constexpr int64_t residual_strip_bytes = 65536;

// Sums side by side: output channels, and taps of a row of the kernel.
constexpr int most_channels = vector_registers == 32 ? 3 : 2, most_taps = 5;

// The sums over the lanes of each vector.
template <typename T>
inline Vector<T> lane_sums(Vector<T> (&rows)[vector_width<T>]) {
  constexpr auto indices = std::make_integer_sequence<int, vector_width<T>>{};
  for (int half = vector_width<T> / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i)
      rows[i] =
          zip<T, false>(rows[i], rows[i + half], indices) + zip<T, true>(rows[i], rows[i + half], indices);
  return rows[0];
}

// A few rows of the residuals of a block of channels, the images they are multiplied with, and what they add to.
template <typename T>
struct Strip {
  const ConvolutionShape& shape;
  const T* residual;  // (channels, rows, convolved_width, 16)
  int64_t rows, top;  // `top`: the first row among those of the convolved images
  Images<T> images;
  double* totals;  // (channels, inputs, kernel_height, kernel_width)
};

// Adds the products with channels [channel, channel + channels), at taps [j, j + taps) of kernel row i, columns
// [begin, end).
template <int channels, int taps, typename T>
[[gnu::noinline]] void add_products(const Strip<T>& o, int64_t channel, int64_t input, int64_t i, int64_t j,
                                    int64_t begin, int64_t end) {
  const ConvolutionShape& s = o.shape;
  const int64_t shift = i - s.padding_height + o.top, row_size = s.convolved_width() * lanes;
  const int64_t first = std::max<int64_t>(0, -shift), last = std::min(o.rows, o.images.height - shift);
  constexpr int width = vector_width<T>, sums = (channels * taps + width - 1) / width * width;
  Vector<T> sum[sums] = {};
  for (int64_t y = first; y < last; ++y) {
    const T* residual = o.residual + (channel * o.rows + y) * row_size;
    const T* image = o.images.pixels + input * o.images.channel_stride +
                     ((y + shift) * o.images.width + j - s.padding_width) * lanes;
    for (int64_t x = begin * lanes; x < end * lanes; x += width) {
      Vector<T> r[channels];
#pragma GCC unroll 8
      for (int c = 0; c < channels; ++c) r[c] = load(residual + c * o.rows * row_size + x);
#pragma GCC unroll 8
      for (int t = 0; t < taps; ++t) {
        const Vector<T> pixel = load(image + t * lanes + x);
#pragma GCC unroll 8
        for (int c = 0; c < channels; ++c) sum[c * taps + t] += r[c] * pixel;
      }
    }
  }
  double* const totals = o.totals + ((channel * s.inputs + input) * s.kernel_height + i) * s.kernel_width + j;
#pragma GCC unroll 16
  for (int start = 0; start < sums; start += width) {
    Vector<T> rows[width];
    for (int k = 0; k < width; ++k) rows[k] = sum[start + k];
    const Vector<T> added = lane_sums<T>(rows);
    for (int k = start; k < std::min(start + width, channels * taps); ++k)
      totals[k / taps * s.taps() + k % taps] += static_cast<double>(added[k - start]);
  }
}

// All taps of the kernel's row from j on, `taps` of them at once where all of them lie in the images.
template <int channels, typename T>
void add_kernel_row(const Strip<T>& o, int64_t channel, int64_t input, int64_t i) {
  const ConvolutionShape& s = o.shape;
  const auto add = [&](auto count, int64_t j) {
    constexpr int taps = decltype(count)::value;
    const int64_t columns = s.convolved_width(), edge = s.width + s.padding_width;
    const int64_t begin = std::min(columns, std::max<int64_t>(0, s.padding_width - j));
    const int64_t end = std::max(begin, std::min(columns, edge - j - taps + 1));
    if (begin < end) add_products<channels, taps>(o, channel, input, i, j, begin, end);
    for (int64_t tap = j; taps > 1 && tap < j + taps; ++tap) {
      const int64_t first = std::max<int64_t>(0, s.padding_width - tap), last = std::min(columns, edge - tap);
      const int64_t left = std::min(begin, last), right = std::max(end, first);
      if (first < left) add_products<channels, 1>(o, channel, input, i, tap, first, left);
      if (right < last) add_products<channels, 1>(o, channel, input, i, tap, right, last);
    }
  };
  int64_t j = 0;
  for (; j + most_taps <= s.kernel_width; j += most_taps) add(std::integral_constant<int, most_taps>{}, j);
  for (; j + 3 <= s.kernel_width; j += 3) add(std::integral_constant<int, 3>{}, j);
  for (; j < s.kernel_width; ++j) add(std::integral_constant<int, 1>{}, j);
}

// For `channels` of them, at most `most`.
template <int most = most_channels, typename T>
void add_channels(const Strip<T>& o, int64_t channel, int64_t channels, int64_t input, int64_t i) {
  if (channels == most) return add_kernel_row<most>(o, channel, input, i);
  if constexpr (most > 1) add_channels<most - 1>(o, channel, channels, input, i);
}

template <typename T>
void add_strip(const Strip<T>& o, int64_t channels) {
  const int64_t parts = (channels + most_channels - 1) / most_channels, size = (channels + parts - 1) / parts;
  for (int64_t channel = 0; channel < channels; channel += size)
    for (int64_t input = 0; input < o.shape.inputs; ++input)
      for (int64_t i = 0; i < o.shape.kernel_height; ++i)
        add_channels(o, channel, std::min(size, channels - channel), input, i);
}

// The sum over n numbers: 32 vectors at a time in T, and those sums in double.
template <typename T>
double vector_sum(const T* x, int64_t n) {
  constexpr int64_t width = vector_width<T>;
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += 32 * width) {
    Vector<T> sum = {};
    for (int64_t i = begin; i < std::min(begin + 32 * width, n); i += width) sum += load(x + i);
    for (int64_t i = 0; i < width; ++i) total += static_cast<double>(sum[i]);
  }
  return total;
}

template <typename T>
struct ResidualFactors {
  T displacement, product;
};

// Rows from `top` on of the residuals of a block of output channels, of one group.
template <typename T>
void residual_rows(const ConvolutionWeightGradient<T>& o, const ResidualFactors<T> factors,
                   const Filters<T>& filters, int64_t group, int64_t first, int64_t count, int64_t top,
                   int64_t rows, T* residual) {
  const ConvolutionShape& s = o.shape;
  const int64_t columns = s.convolved_width(), row_size = columns * lanes, image = s.height * s.width * lanes;
  const int64_t codes = s.code_height() * s.code_width() * lanes;
  for (int64_t y = 0; y < rows; ++y) {
    if (o.input_displacement) {
      const Images<T> images = {o.input_displacement + group * s.inputs * image, s.height, s.width, image};
      convolve_row<T>(filters, first, count, images, top + y - s.padding_height, s.padding_width, nullptr,
                      residual + y * row_size, columns, rows * row_size);
    }
    for (int64_t c = 0; c < count; ++c) {
      T* const row = residual + (c * rows + y) * row_size;
      const int64_t channel = (group * s.outputs + first + c) * codes;
      const uint8_t* winner = o.winner ? o.winner + channel : nullptr;
      expand_row(s, o.displacement + channel, winner, factors.displacement, top + y,
                 [&](int64_t i, const Vector<T> values) {
                   store(row + i, o.input_displacement ? values + factors.product * load(row + i) : values);
                 });
    }
  }
}

}  // namespace

template <typename T>
void convolution_weight_gradient(const ConvolutionWeightGradient<T>& o) {
  const ConvolutionShape& s = o.shape;
  const int64_t weights = s.outputs * s.taps();
  const bool no_code = s.outputs * s.code_height() * s.code_width() == 0;
  const bool no_image = s.inputs * s.height * s.width == 0;
  if (s.groups == 0 || s.outputs == 0 || (no_code && no_image)) {
    if (o.weight_gradient) std::fill_n(o.weight_gradient, weights, T(0));
    if (o.bias_gradient) std::fill_n(o.bias_gradient, s.outputs, T(0));
    o.scalars->residual_square = 0;
    return;
  }
  const double unit_below = o.below ? o.below->unit : 1.0;
  const ResidualFactors<T> factors = {static_cast<T>(o.scalars->unit / o.scalars->scale),
                                      static_cast<T>(unit_below / o.scalars->scale)};
  const Filters<T> filters = filters_of(s, o.weight);
  const int64_t height = s.convolved_height(), row_size = s.convolved_width() * lanes;
  const int64_t image = s.height * s.width * lanes;
  const int64_t row_bytes = std::max<int64_t>(1, filters.block * row_size * sizeof(T));
  const int64_t strip = std::min(height, std::max(s.pool, residual_strip_bytes / row_bytes / s.pool * s.pool));
  const int64_t strips = (height + strip - 1) / strip;
  const int threads = threads_for_convolution(s);
  static thread_local std::vector<double> memory;
  memory.assign(static_cast<size_t>(threads * (weights + s.outputs)), 0.0);
  double* const all_totals = memory.data();
  const Scratch<T> residuals(threads, filters.block * strip * row_size);
  double squares[max_threads] = {};
  parallel_ranges(
      s.groups * strips, threads,
      [&](int thread, int64_t begin, int64_t end) {
        double* const totals = all_totals + thread * (weights + s.outputs);
        T* const residual = residuals[thread];
        double square = 0;
        for (int64_t item = begin; item < end; ++item) {
          const int64_t group = item / strips, top = item % strips * strip,
                        rows = std::min(strip, height - top);
          const Images<T> images = {o.input + group * s.inputs * image, s.height, s.width, image};
          filters.for_blocks([&](int64_t first, int64_t count) {
            residual_rows(o, factors, filters, group, first, count, top, rows, residual);
            for (int64_t c = 0; c < count; ++c) {
              const T* channel = residual + c * rows * row_size;
              square += sum_of_squares(channel, rows * row_size);
              totals[weights + first + c] += vector_sum(channel, rows * row_size);
            }
            if (o.weight_gradient)
              add_strip(Strip<T>{s, residual, rows, top, images, totals + first * s.taps()}, count);
          });
        }
        squares[thread] = square;
      },
      1);
  const auto total = [&](int64_t i) {
    double sum = 0;
    for (int thread = 0; thread < threads; ++thread) sum += all_totals[thread * (weights + s.outputs) + i];
    return static_cast<T>(sum);
  };
  for (int64_t i = 0; o.weight_gradient && i < weights; ++i) o.weight_gradient[i] = total(i);
  for (int64_t c = 0; o.bias_gradient && c < s.outputs; ++c) o.bias_gradient[c] = total(weights + c);
  o.scalars->residual_square = 0;
  for (int thread = 0; thread < threads; ++thread) o.scalars->residual_square += squares[thread];
  raise_unless_finite(o.scalars->residual_square, o.guard);
}

ALTMIN_INSTANTIATE(convolution_weight_gradient, void, ConvolutionWeightGradient)

}  // namespace altmin::cpu::ALTMIN_ISA
