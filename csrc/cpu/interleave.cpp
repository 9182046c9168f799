#include "ops/interleave.h"

#include "transpose.h"

namespace altmin::cpu::ALTMIN_ISA {

template <typename T>
void interleave(const Interleave<T>& o) {
  for_tiles(o.batch, o.width, [&](int64_t group, int64_t column, int64_t columns) {
    const int64_t samples = std::min(lanes, o.batch - group * lanes);
    to_lanes(o.rows + group * lanes * o.width + column, o.width, samples, columns,
             o.lanes + (group * o.width + column) * lanes);
  });
}

ALTMIN_INSTANTIATE(interleave, void, Interleave)

}  // namespace altmin::cpu::ALTMIN_ISA
