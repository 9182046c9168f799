#include "ops/deinterleave.h"

#include "transpose.h"

namespace altmin::cpu::ALTMIN_ISA {

template <typename T>
void deinterleave(const Deinterleave<T>& o) {
  for_tiles(o.batch, o.width, [&](int64_t group, int64_t column, int64_t columns) {
    const int64_t samples = std::min(lanes, o.batch - group * lanes);
    from_lanes(o.lanes + (group * o.width + column) * lanes, samples, columns,
               o.rows + group * lanes * o.width + column, o.width);
  });
}

ALTMIN_INSTANTIATE(deinterleave, void, Deinterleave)

}  // namespace altmin::cpu::ALTMIN_ISA
