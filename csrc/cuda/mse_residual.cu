// Registers per thread: at most 56 in float32, 56 in float64.
#include "ops/mse_residual.h"

#include <cmath>

#include "residual_tiles.h"

namespace altmin::cuda {

namespace {

template <int pack, typename T>
__global__ void __launch_bounds__(tile_threads)
    mse_residual_kernel(MseResidual<T> o, Tiling tiling, Workspace workspace) {
  const T factor = T(2) / static_cast<T>(o.width);
  residual_tile<pack>(
      o.batch, o.width, tiling, blockIdx.x, o.residual, o.bias_gradient, workspace.numbers, workspace.counters,
      [&](int64_t row, int64_t column, double& square) {
        const int64_t place = row * o.width + column;
        const auto logits = load<pack>(o.logits + place);
        const auto targets = load<pack>(o.targets + place);
        const auto bias = load_or<pack>(o.bias, column, T(0));
        Pack<T, pack> residual;
        for (int i = 0; i < pack; ++i) {
          const T error = logits[i] + bias[i] - targets[i];
          square += static_cast<double>(error) * static_cast<double>(error);
          residual[i] = factor * error;
        }
        return residual;
      },
      [&](double sum) {
        const double mean = sum / static_cast<double>(o.batch * o.width);
        if (!is_finite_sum(fabs(mean))) raise(o.guard);
        *o.loss = static_cast<T>(mean);
      });
}

}  // namespace

template <typename T>
void mse_residual(const MseResidual<T>& given, Stream stream) {
  MseResidual<T> o = given;
  if (o.batch == 0 && !o.bias_gradient) o.width = 0;  // which may be any
  const bool whole = o.width % pack_width<T> == 0 && aligned(o.logits, o.targets, o.bias, o.residual);
  const Tiling tiling(o.batch, o.width, whole ? pack_width<T> : 1, 2 * multiprocessors());
  const auto kernel = whole ? mse_residual_kernel<pack_width<T>, T> : mse_residual_kernel<1, T>;
  launch(kernel, tiling.blocks(), dim3(warp_size, tile_rows), stream, o, tiling,
         Workspace::of(stream, tiling.numbers(o.width)));
}

ALTMIN_INSTANTIATE_CUDA(mse_residual, void, MseResidual)

}  // namespace altmin::cuda
