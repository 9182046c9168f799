// bcd_columns: sweeps of block coordinate descent over the columns of W, for min_W tr(W A W^T) / 2 - tr(W B^T)
//
//   for j = 0, 1, ...:  w_j <- w_j + (b_j - W a_j) / A_jj
//
// with A = gram (symmetric) and B = cross; A's diagonal counts as raised by damping times its mean. After each such step w_j <- soft(w_j, threshold / A_jj), and, if
// nonnegative, w_j <- max(w_j, 0); neither applies to the last column if that is the bias. A column whose A_jj is at
// most eps max_k A_kk does not change, since its input was always zero. With nonnegative this is the HALS update of
// non-negative matrix factorisation.
//
// From zero, W counts as 0 and is not read. The first sweep, W <- B triu(A)^-1 but for thresholds, then reads no more of A
// than its upper triangle and does half of the work. It gives the same bits as from a W of zeros, except that a zero may
// have the other sign and that what is not finite in A's lower triangle goes unseen. Nothing may overlap.
#pragma once

#include <cstdint>

#include "backend.h"
#include "scalars.h"

namespace altmin {

template <typename T>
struct BcdColumns {
  int64_t rows, columns;
  T* weight;       // W (rows, columns), in and out; from zero, only out
  const T* gram;   // A (columns, columns)
  const T* cross;  // B (rows, columns)
  const MemoryScalars* scalars;
  int sweeps;
  bool has_bias;  // the last column is the bias
  bool nonnegative;
  bool from_zero;
};

}  // namespace altmin

ALTMIN_WIDE_OP(bcd_columns, void, BcdColumns)
