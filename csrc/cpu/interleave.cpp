#include "ops/interleave.h"

#include "transpose.h"

namespace altmin::cpu::ALTMIN_ISA {

template <typename T>
void interleave(const Interleave<T>& o) {
  constexpr int64_t side = vector_width<T>;
  for_tiles(o.batch, o.width, [&](int64_t group, int64_t column, int64_t columns) {
    const int64_t samples = std::min(lanes, o.batch - group * lanes);
    const T* rows = o.rows + group * lanes * o.width + column;
    T* to = o.lanes + (group * o.width + column) * lanes;
    const int64_t whole = samples == lanes ? columns / side * side : 0;
    for (int64_t lane = 0; lane < lanes; lane += side) {
      for (int64_t i = 0; i < whole; i += side) {
        Vector<T> square[side];
        for (int64_t j = 0; j < side; ++j) square[j] = load(rows + (lane + j) * o.width + i);
        transpose<T>(square);
        for (int64_t j = 0; j < side; ++j) store(to + (i + j) * lanes + lane, square[j]);
      }
    }
    for (int64_t i = whole; i < columns; ++i)
      for (int64_t lane = 0; lane < lanes; ++lane)
        to[i * lanes + lane] = lane < samples ? rows[lane * o.width + i] : T(0);
  });
}

ALTMIN_INSTANTIATE(interleave, void, Interleave)

}  // namespace altmin::cpu::ALTMIN_ISA
