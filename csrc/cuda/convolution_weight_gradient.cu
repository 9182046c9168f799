#include "ops/convolution_weight_gradient.h"

#include <algorithm>

#include "convolution.h"
#include "reduction.h"

namespace altmin::cuda {

namespace {

constexpr int tile_columns = 32, warps = convolution_threads / warp_size;

// The blocks of a column of the grid share the rows of an output channel's residuals. Of a tile of a row at a time,
// in shared memory, each warp adds up the products with every eighth tap: partial sums (outputs, blocks, taps + 2), of
// the products, of the residuals and of their squares.
template <typename T>
__global__ void __launch_bounds__(convolution_threads, 1)
    convolution_weight_gradient_kernel(ConvolutionWeightGradient<T> o, double* partial_sums) {
  __shared__ T residual[tile_columns * lanes];
  __shared__ T of_displacement, of_product;  // quotients in double: once per block is enough
  const ConvolutionShape& s = o.shape;
  const int64_t taps = s.taps(), sums = taps + 2, rows = s.groups * s.convolved_height();
  const int warp = threadIdx.x / warp_size, own = threadIdx.x % warp_size;
  if (threadIdx.x == 0) {
    of_displacement = static_cast<T>(o.scalars->unit / o.scalars->scale);
    of_product = static_cast<T>((o.below ? o.below->unit : 1.0) / o.scalars->scale);
  }
  __syncthreads();

  for (int64_t output = blockIdx.y; output < s.outputs; output += gridDim.y) {
    double* const partial = partial_sums + (output * gridDim.x + blockIdx.x) * sums;
    for (int64_t tap = warp; own == 0 && tap < sums; tap += warps) partial[tap] = 0;
    for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
      const int64_t group = row / s.convolved_height(), y = row % s.convolved_height();
      for (int64_t begin = 0; begin < s.convolved_width(); begin += tile_columns) {
        const int64_t left = s.convolved_width() - begin;
        const int size = static_cast<int>(left < tile_columns ? left : tile_columns) * lanes;
        for (int k = threadIdx.x; k < size; k += convolution_threads) {
          const int64_t x = begin + k / lanes;
          const int lane = static_cast<int>(k % lanes);
          T r = of_displacement * expanded(s, o.displacement, o.winner, group, output, y, x, lane);
          if (o.input_displacement)
            r += of_product * convolved(s, o.input_displacement, o.weight, group, output, y, x, lane);
          residual[k] = r;
        }
        __syncthreads();
        for (int64_t tap = warp; tap < sums; tap += warps) {
          const int64_t j = tap % s.kernel_width, i = tap / s.kernel_width % s.kernel_height;
          const int64_t image = group * s.inputs + tap / s.kernel_width / s.kernel_height;
          const int64_t source = y + i - s.padding_height;
          T sum = 0;
          double square = 0;
          for (int k = own; k < size; k += warp_size) {
            if (tap < taps) {
              const int64_t x = begin + k / lanes + j - s.padding_width;
              if (source >= 0 && source < s.height && x >= 0 && x < s.width)
                sum += residual[k] *
                       o.input[place_of(image, source, x, s.height, s.width, static_cast<int>(k % lanes))];
            } else if (tap == taps) {
              sum += residual[k];
            } else {
              square += static_cast<double>(residual[k]) * static_cast<double>(residual[k]);
            }
          }
          const double of_tile = tap > taps ? warp_sum(square) : static_cast<double>(warp_sum(sum));
          if (own == 0) partial[tap] += of_tile;
        }
        __syncthreads();
      }
    }
  }
}

// Adds up what the blocks have found, a thread for each sum.
template <typename T>
__global__ void __launch_bounds__(convolution_threads, 1)
    convolution_weight_total_kernel(ConvolutionWeightGradient<T> o, const double* partial_sums, int64_t blocks,
                                    Workspace workspace) {
  const int64_t taps = o.shape.taps(), sums = taps + 2, stride = int64_t{gridDim.x} * convolution_threads;
  double square = 0;
  for (int64_t place = blockIdx.x * int64_t{convolution_threads} + threadIdx.x; place < o.shape.outputs * sums;
       place += stride) {
    const int64_t output = place / sums, tap = place % sums;
    double sum = 0;
    for (int64_t block = 0; block < blocks; ++block)
      sum += partial_sums[(output * blocks + block) * sums + tap];
    if (tap < taps && o.weight_gradient) o.weight_gradient[output * taps + tap] = static_cast<T>(sum);
    if (tap == taps && o.bias_gradient) o.bias_gradient[output] = static_cast<T>(sum);
    if (tap > taps) square += sum;
  }
  launch_sum(square, workspace, [&](double sum) {
    o.scalars->residual_square = sum;
    if (!(sum <= 1.7976931348623157e308)) raise(o.guard);
  });
}

}  // namespace

template <typename T>
void convolution_weight_gradient(const ConvolutionWeightGradient<T>& o, Stream stream) {
  const ConvolutionShape& s = o.shape;
  const int64_t rows = s.groups * s.convolved_height(), columns = std::min<int64_t>(s.outputs, 65535);
  const int64_t blocks = std::min(rows, ceil_divide(4 * multiprocessors(), std::max<int64_t>(1, columns)));
  const int64_t partial_sums = s.outputs * blocks * (s.taps() + 2);
  const unsigned totals = blocks_for(ceil_divide(s.outputs * (s.taps() + 2), convolution_threads));
  Workspace workspace = Workspace::of(stream, totals + partial_sums);
  double* const partial = workspace.numbers + totals;
  if (partial_sums > 0)
    launch(convolution_weight_gradient_kernel<T>,
           dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(columns)), convolution_threads, stream, o,
           partial);
  launch(convolution_weight_total_kernel<T>, totals, convolution_threads, stream, o,
         static_cast<const double*>(partial), blocks, workspace);
}

ALTMIN_INSTANTIATE_CUDA(convolution_weight_gradient, void, ConvolutionWeightGradient)

}  // namespace altmin::cuda
