// Registers per thread: at most 32 in float32, 32 in float64.
#include "ops/deinterleave.h"

#include "lane_tiles.h"

namespace altmin::cuda {

namespace {

template <typename T>
__global__ void __launch_bounds__(lane_tile_threads) deinterleave_kernel(Deinterleave<T> o) {
  __shared__ LaneTile<T> tile;
  for_lane_tiles(o.batch, o.width, [&](int64_t group, int64_t column, int columns) {
    for_each_by_lane(columns, [&](int i, int lane) {
      tile.at[i][lane] = o.lanes[(group * o.width + column + i) * lanes + lane];
    });
    __syncthreads();
    const int64_t samples = o.batch - group * lanes;
    for_each_by_column(columns, [&](int i, int lane) {
      if (lane < samples) o.rows[(group * lanes + lane) * o.width + column + i] = tile.at[i][lane];
    });
    __syncthreads();
  });
}

}  // namespace

template <typename T>
void deinterleave(const Deinterleave<T>& o, Stream stream) {
  if (const int64_t tiles = lane_tiles(o.batch, o.width))
    launch(deinterleave_kernel<T>, blocks_for(tiles), lane_tile_threads, stream, o);
}

ALTMIN_INSTANTIATE_CUDA(deinterleave, void, Deinterleave)

}  // namespace altmin::cuda
