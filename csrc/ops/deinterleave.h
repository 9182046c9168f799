// deinterleave: from one sample per lane to one sample per row
//
//   rows[16 g + l][i] = lanes[g][i][l]
//
// The inverse of interleave; lanes of the last group beyond the batch are ignored. Nothing may overlap.
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
