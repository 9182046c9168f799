// Lanes: the layout of batches whose samples are computed side by side, one in each lane of a vector.
//
// Samples are taken 16 at a time, and the sample is the innermost index: a batch of (channels, height, width)
// images is (groups, channels, height, width, 16). Whatever a kernel does with one sample it does with 16 at
// once, with contiguous loads and weights that all of them share, whatever the kernel size or the stride.
// The last group is filled up with samples of zeros, whose displacements are zeros, too.
#pragma once

#include <cstdint>

namespace altmin {

inline constexpr int64_t lanes = 16;

inline constexpr int64_t groups_of(int64_t batch) { return (batch + lanes - 1) / lanes; }

}  // namespace altmin
