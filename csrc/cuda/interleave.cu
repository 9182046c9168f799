// Registers per thread: at most 32 in float32, 32 in float64.
#include "ops/interleave.h"

#include "lane_tiles.h"

namespace altmin::cuda {

namespace {

template <typename T>
__global__ void __launch_bounds__(lane_tile_threads) interleave_kernel(Interleave<T> o) {
  __shared__ LaneTile<T> tile;
  for_lane_tiles(o.batch, o.width, [&](int64_t group, int64_t column, int columns) {
    const int64_t samples = o.batch - group * lanes;
    for_each_by_column(columns, [&](int i, int lane) {
      tile.at[i][lane] = lane < samples ? o.rows[(group * lanes + lane) * o.width + column + i] : T(0);
    });
    __syncthreads();
    for_each_by_lane(columns, [&](int i, int lane) {
      o.lanes[(group * o.width + column + i) * lanes + lane] = tile.at[i][lane];
    });
    __syncthreads();
  });
}

}  // namespace

template <typename T>
void interleave(const Interleave<T>& o, Stream stream) {
  if (const int64_t tiles = lane_tiles(o.batch, o.width))
    launch(interleave_kernel<T>, blocks_for(tiles), lane_tile_threads, stream, o);
}

ALTMIN_INSTANTIATE_CUDA(interleave, void, Interleave)

}  // namespace altmin::cuda
