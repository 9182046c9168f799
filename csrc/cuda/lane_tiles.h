// Tiles of 16 samples by 32 columns, on their way between a sample in each row and a sample in each lane.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "launch.h"
#include "ops/lanes.h"

namespace altmin::cuda {

inline constexpr int lane_tile_threads = 256, lane_tile_columns = 32;

inline int64_t lane_tiles(int64_t batch, int64_t width) {
  return groups_of(batch) * ceil_divide(width, lane_tile_columns);
}

// A column more than there are lanes: neighbours in a column lie in different banks of the shared memory.
template <typename T>
struct LaneTile {
  T at[lane_tile_columns][lanes + 1];
};

// Calls body(group, column, columns) for the tiles of this block, with all of its threads.
template <typename Body>
__device__ __forceinline__ void for_lane_tiles(int64_t batch, int64_t width, const Body& body) {
  const int64_t across = (width + lane_tile_columns - 1) / lane_tile_columns, tiles = groups_of(batch) * across;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int64_t column = tile % across * lane_tile_columns, left = width - column;
    body(tile / across, column, static_cast<int>(left < lane_tile_columns ? left : lane_tile_columns));
  }
}

// Calls body(column, lane), neighbouring threads in neighbouring columns.
template <typename Body>
__device__ __forceinline__ void for_each_by_column(int columns, const Body& body) {
  const int column = threadIdx.x % lane_tile_columns;
  if (column >= columns) return;
  for (int lane = threadIdx.x / lane_tile_columns; lane < lanes; lane += lane_tile_threads / lane_tile_columns)
    body(column, lane);
}

// Likewise, neighbouring threads in neighbouring lanes.
template <typename Body>
__device__ __forceinline__ void for_each_by_lane(int columns, const Body& body) {
  for (int i = threadIdx.x; i < columns * lanes; i += lane_tile_threads)
    body(static_cast<int>(i / lanes), static_cast<int>(i % lanes));
}

}  // namespace altmin::cuda
