// Lanes: the layout of batches whose samples are computed side by side, one in each lane of a vector.
//
// Samples come in groups of 16, and the sample is the innermost index: a batch of images (channels, height, width) is
// (groups, channels, height, width, 16). Kernels process the 16 samples of a group at once, with contiguous loads and
// shared weights, for any kernel size and stride. The last group is padded with samples of zeros, whose displacements
// are zeros, too.
#pragma once

#include <cstdint>

namespace altmin {

inline constexpr int64_t lanes = 16;

// Without a sign, since the sum may be too large for one.
inline constexpr int64_t groups_of(int64_t batch) {
  return static_cast<int64_t>((static_cast<uint64_t>(batch) + lanes - 1) / lanes);
}

}  // namespace altmin
