#include "ops/deinterleave.h"

#include "transpose.h"

namespace altmin::cpu::ALTMIN_ISA {

template <typename T>
void deinterleave(const Deinterleave<T>& o) {
  constexpr int64_t side = vector_width<T>;
  for_tiles(o.batch, o.width, [&](int64_t group, int64_t column, int64_t columns) {
    const int64_t samples = std::min(lanes, o.batch - group * lanes);
    const T* from = o.lanes + (group * o.width + column) * lanes;
    T* rows = o.rows + group * lanes * o.width + column;
    const int64_t whole = samples == lanes ? columns / side * side : 0;
    for (int64_t lane = 0; lane < lanes; lane += side) {
      for (int64_t i = 0; i < whole; i += side) {
        Vector<T> square[side];
        for (int64_t j = 0; j < side; ++j) square[j] = load(from + (i + j) * lanes + lane);
        transpose<T>(square);
        for (int64_t j = 0; j < side; ++j) store(rows + (lane + j) * o.width + i, square[j]);
      }
    }
    for (int64_t lane = 0; lane < samples; ++lane)
      for (int64_t i = whole; i < columns; ++i) rows[lane * o.width + i] = from[i * lanes + lane];
  });
}

ALTMIN_INSTANTIATE(deinterleave, void, Deinterleave)

}  // namespace altmin::cpu::ALTMIN_ISA
