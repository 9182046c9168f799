// What both passes over a batch of sequences have in common.
#pragma once

#include <algorithm>
#include <cstdint>

#include "transpose.h"

namespace altmin::cpu::ALTMIN_ISA {

// The samples of one group, of which the last may have fewer than there are lanes.
class Samples {
 public:
  Samples(int64_t group, int64_t batch)
      : first_(group * lanes), count_(std::min(lanes, batch - group * lanes)) {}

  // to[i][lane] = rows[sample][i] for `width` columns; 0 beyond the batch.
  template <typename T>
  void interleave(const T* rows, int64_t stride, int64_t width, T* to) const {
    to_lanes(rows + first_ * stride, stride, count_, width, to);
  }

  // rows[sample][i] = from[i][lane]
  template <typename T>
  void deinterleave(const T* from, int64_t width, T* rows, int64_t stride) const {
    from_lanes(from, count_, width, rows + first_ * stride, stride);
  }

  // to[lane][i] = rows[sample][i] for all `width` columns; 0 beyond the batch.
  template <typename T>
  void copy_rows(const T* rows, int64_t width, T* to) const {
    for (int64_t lane = 0; lane < lanes; ++lane)
      for (int64_t i = 0; i < width; ++i)
        to[lane * width + i] = lane < count_ ? rows[(first_ + lane) * width + i] : T(0);
  }

  // rows[sample][i] = from[lane][i]
  template <typename T>
  void store_rows(const T* from, int64_t from_stride, int64_t width, T* rows, int64_t stride) const {
    for (int64_t lane = 0; lane < count_; ++lane)
      std::copy_n(from + lane * from_stride, width, rows + (first_ + lane) * stride);
  }

  template <typename T>
  void fill_ones(T* to) const {
    for (int64_t lane = 0; lane < lanes; ++lane) to[lane] = lane < count_ ? T(1) : T(0);
  }

 private:
  int64_t first_, count_;
};

}  // namespace altmin::cpu::ALTMIN_ISA
