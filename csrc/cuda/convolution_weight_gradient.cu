// Registers per thread: at most 128 in float32, 128 in float64.
#include "ops/convolution_weight_gradient.h"

#include <algorithm>

#include "convolution.h"
#include "reduction.h"

namespace altmin::cuda {

namespace {

constexpr int tile_columns = 32, warps = convolution_threads / warp_size;

// The displacement of the code that (y, x) is pooled into if it is the winner there, else zero. `displacement` and
// `winner` are the channel's.
template <typename T>
__device__ __forceinline__ T expanded(const ConvolutionShape& s, const T* displacement, const uint8_t* winner,
                                      int y, int x, int lane) {
  const int pool = static_cast<int>(s.pool), row = y / pool, column = x / pool;
  if (row >= s.code_height() || column >= s.code_width()) return T(0);
  const int place = (row * static_cast<int>(s.code_width()) + column) * static_cast<int>(lanes) + lane;
  return pool == 1 || winner[place] == y % pool * pool + x % pool ? displacement[place] : T(0);
}

// Of a tile, or of their squares: a warp's sum, `own` being the thread's lane.
template <typename T>
__device__ __forceinline__ double sum_of_residuals(const T* residual, int size, int own, bool squared) {
  double sum = 0;
  for (int k = own; k < size; k += warp_size) {
    const double r = static_cast<double>(residual[k]);
    sum += squared ? r * r : r;
  }
  return warp_sum(sum);
}

// The blocks of a column of the grid share the rows of an output channel's residuals. Of a tile of a row at a time,
// in shared memory, each warp adds up the products with every eighth tap: partial sums (outputs, blocks, taps + 2), of
// the products, of the residuals and of their squares.
template <typename T>
__global__ void __launch_bounds__(convolution_threads, 1)
    convolution_weight_gradient_kernel(ConvolutionWeightGradient<T> o, double* partial_sums) {
  __shared__ T residual[tile_columns * lanes];
  __shared__ T of_displacement, of_product;  // quotients in double: once per block is enough
  const ConvolutionShape& s = o.shape;
  const int kernel_width = static_cast<int>(s.kernel_width), kernel_height = static_cast<int>(s.kernel_height);
  const int taps = static_cast<int>(s.taps()), sums = taps + 2, width = static_cast<int>(s.convolved_width());
  const int warp = threadIdx.x / warp_size, own = threadIdx.x % warp_size;
  const int64_t rows = s.groups * s.convolved_height(), image = s.height * s.width * lanes;
  const int64_t codes = s.code_height() * s.code_width() * lanes;
  if (threadIdx.x == 0) {
    of_displacement = static_cast<T>(o.scalars->unit / o.scalars->scale);
    of_product = static_cast<T>((o.below ? o.below->unit : 1.0) / o.scalars->scale);
  }
  __syncthreads();

  for (int64_t output = blockIdx.y; output < s.outputs; output += gridDim.y) {
    double* const partial = partial_sums + (output * gridDim.x + blockIdx.x) * sums;
    for (int tap = warp; own == 0 && tap < sums; tap += warps) partial[tap] = 0;
    for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
      const int64_t group = row / s.convolved_height(), channel = (group * s.outputs + output) * codes;
      const uint8_t* winner = s.pool == 1 ? nullptr : o.winner + channel;
      const int y = static_cast<int>(row % s.convolved_height());
      for (int begin = 0; begin < width; begin += tile_columns) {
        const int size = min(width - begin, tile_columns) * static_cast<int>(lanes);
        for (int k = threadIdx.x; k < size; k += convolution_threads) {
          const int x = begin + k / static_cast<int>(lanes), lane = k % static_cast<int>(lanes);
          T r = of_displacement * expanded(s, o.displacement + channel, winner, y, x, lane);
          if (o.input_displacement)
            r += of_product * convolved(s, o.input_displacement + group * s.inputs * image,
                                        o.weight + output * taps, y, x, lane);
          residual[k] = r;
        }
        __syncthreads();
        for (int tap = warp; tap < sums; tap += warps) {
          double of_tile = 0;
          if (tap < taps) {
            const int j = tap % kernel_width, i = tap / kernel_width % kernel_height;
            const int64_t source = y + i - s.padding_height, left = begin + j - s.padding_width;
            const Taps inside(left * lanes, size, s.width * lanes);
            const T* images = o.input + (group * s.inputs + tap / kernel_width / kernel_height) * image +
                              (source * s.width + left) * lanes;
            T sum = 0;
            if (source >= 0 && source < s.height)
              for (int k = inside.begin + own; k < inside.end; k += warp_size) sum += residual[k] * images[k];
            of_tile = static_cast<double>(warp_sum(sum));
          } else {
            of_tile = sum_of_residuals(residual, size, own, tap > taps);
          }
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
    if (!is_finite_sum(sum)) raise(o.guard);
  });
}

}  // namespace

template <typename T>
void convolution_weight_gradient(const ConvolutionWeightGradient<T>& given, Stream stream) {
  ConvolutionWeightGradient<T> o = given;
  if (o.shape.groups * o.shape.outputs == 0 && o.shape.taps() == 0 && !o.bias_gradient)
    o.shape.outputs = 0;  // which may be any
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
