// interleave: from one sample per row to one sample per lane
//
//   lanes[g][i][l] = rows[16 g + l][i],  0 beyond the batch
//
// Nothing may overlap.
#pragma once

#include <cstdint>

#include "backend.h"
#include "lanes.h"

namespace altmin {

template <typename T>
struct Interleave {
  int64_t batch, width;
  const T* rows;  // (batch, width)
  T* lanes;       // (groups_of(batch), width, 16), out
};

}  // namespace altmin

ALTMIN_OP(interleave, void, Interleave)
