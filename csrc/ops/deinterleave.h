// deinterleave: from a sample in each lane to a sample in each row
//
//   rows[16 g + l][i] = lanes[g][i][l]
//
// The opposite of interleave; what the last group holds beyond the batch is dropped. Nothing may overlap.
#pragma once

#include <cstdint>

#include "backend.h"
#include "lanes.h"

namespace altmin {

template <typename T>
struct Deinterleave {
  int64_t batch, width;
  const T* lanes;  // (groups_of(batch), width, 16)
  T* rows;         // (batch, width), out
};

}  // namespace altmin

ALTMIN_OP(deinterleave, void, Deinterleave)
