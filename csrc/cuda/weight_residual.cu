// Registers per thread: at most 64 in float32, 64 in float64.
#include "ops/weight_residual.h"

#include "residual_tiles.h"

namespace altmin::cuda {

namespace {

// What a launch takes along in its arguments; a deeper network needs several.
constexpr int most_stages = 24;

template <typename T>
struct Stages {
  int64_t batch;
  int count;
  WeightResidualStage<T> stage[most_stages];
  Tiling tiling[most_stages];
  unsigned end[most_stages];     // of its blocks
  int64_t numbers[most_stages];  // where its workspace begins
};

template <int pack, typename T>
__device__ Pack<T, pack> residual(const WeightResidualStage<T>& o, T of_displacement, T of_product,
                                  int64_t place, int64_t column) {
  const auto displacement = load<pack>(o.displacement + place);
  // What cancels, product + bias - code, is taken first, so that only what is left of it is scaled.
  const auto product = load_or<pack>(o.product, place, T(0));
  const auto bias = load_or<pack>(o.bias, column, T(0));
  const auto code = load_or<pack>(o.code, place, T(0));
  Pack<T, pack> result;
  for (int i = 0; i < pack; ++i)
    result[i] = of_displacement * displacement[i] + of_product * (product[i] + bias[i] - code[i]);
  return result;
}

template <int pack, typename T>
__global__ void __launch_bounds__(tile_threads) weight_residual_kernel(Stages<T> stages, Workspace workspace) {
  int l = 0;
  while (blockIdx.x >= stages.end[l]) ++l;
  const WeightResidualStage<T>& o = stages.stage[l];
  CodeScalars& s = *o.scalars;
  __shared__ T of_displacement, of_product;  // quotients in double: once per block is enough
  if (thread_in_block() == 0) {
    of_displacement = static_cast<T>(s.unit / s.scale);
    of_product = static_cast<T>((o.below ? o.below->unit : 1.0) / s.scale);
  }
  __syncthreads();
  residual_tile<pack>(
      stages.batch, o.width, stages.tiling[l], blockIdx.x - (l > 0 ? stages.end[l - 1] : 0u), o.residual,
      o.bias_gradient, workspace.numbers + stages.numbers[l], workspace.counters + l,
      [&](int64_t row, int64_t column, double& square) {
        const auto values = residual<pack>(o, of_displacement, of_product, row * o.width + column, column);
        for (int i = 0; i < pack; ++i)
          square += static_cast<double>(values[i]) * static_cast<double>(values[i]);
        return values;
      },
      [&](double sum) {
        s.residual_square = sum;
        if (!has_finite_square(sqrt(sum))) raise(o.guard);
      });
}

template <typename T>
bool packs(const WeightResidualStage<T>& o) {
  return o.width % pack_width<T> == 0 && aligned(o.displacement, o.product, o.bias, o.code, o.residual);
}

}  // namespace

template <typename T>
void weight_residual(const WeightResidual<T>& o, Stream stream) {
  const bool whole = std::all_of(o.stages.begin(), o.stages.end(), packs<T>);
  const int pack = whole ? pack_width<T> : 1;
  const int64_t total = static_cast<int64_t>(o.stages.size());
  for (int64_t first = 0; first < total; first += most_stages) {
    Stages<T> stages = {};
    stages.batch = o.batch;
    stages.count = static_cast<int>(std::min<int64_t>(most_stages, total - first));
    unsigned blocks = 0;
    int64_t numbers = 0;
    for (int l = 0; l < stages.count; ++l) {
      stages.stage[l] = o.stages[first + l];
      // Without a sample the width may be any, unless it is that of a gradient.
      if (o.batch == 0 && !stages.stage[l].bias_gradient) stages.stage[l].width = 0;
      const int64_t width = stages.stage[l].width;
      stages.tiling[l] = Tiling(o.batch, width, pack, 2 * multiprocessors());
      stages.end[l] = blocks += stages.tiling[l].blocks();
      stages.numbers[l] = numbers;
      numbers += stages.tiling[l].numbers(width);
    }
    const auto kernel = whole ? weight_residual_kernel<pack_width<T>, T> : weight_residual_kernel<1, T>;
    launch(kernel, blocks, dim3(warp_size, tile_rows), stream, stages, Workspace::of(stream, numbers));
  }
}

ALTMIN_INSTANTIATE_CUDA(weight_residual, void, WeightResidual)

}  // namespace altmin::cuda
