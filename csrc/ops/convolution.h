// The shapes of a stage that convolves and then pools.
//
// Strides, dilations and groups are 1; the zero padding is smaller than the kernel. A window of pool x pool
// neighbours has one code, its maximum; a remainder at the right and at the bottom has none.
#pragma once

#include <cstdint>

#include "lanes.h"
#include "platform.h"

namespace altmin {

struct ConvolutionShape {
  int64_t groups;                         // of 16 samples
  int64_t inputs, height, width;          // of the input: (groups, inputs, height, width, 16)
  int64_t outputs;                        // of the code: (groups, outputs, code_height, code_width, 16)
  int64_t kernel_height, kernel_width;    // of the weight: (outputs, inputs, kernel_height, kernel_width)
  int64_t padding_height, padding_width;  // on either side
  int64_t pool;                           // 1: none

  // The extents of the convolved images, before pooling.
  ALTMIN_HOST_DEVICE int64_t convolved_height() const {
    return height + 2 * padding_height - kernel_height + 1;
  }
  ALTMIN_HOST_DEVICE int64_t convolved_width() const { return width + 2 * padding_width - kernel_width + 1; }
  ALTMIN_HOST_DEVICE int64_t code_height() const { return convolved_height() / pool; }
  ALTMIN_HOST_DEVICE int64_t code_width() const { return convolved_width() / pool; }
  // Elements of one output channel.
  ALTMIN_HOST_DEVICE int64_t taps() const { return inputs * kernel_height * kernel_width; }
  ALTMIN_HOST_DEVICE int64_t multiply_adds() const {
    return groups * lanes * outputs * convolved_height() * convolved_width() * taps();
  }
};

// Winners are bytes.
inline constexpr int64_t largest_pool = 16;

}  // namespace altmin
