#include "ops/deinterleave.h"

#include "ops/lanes.h"
#include "run.h"

namespace altmin {
namespace {

void deinterleave(const Tensor& lanes, const Tensor& rows) {
  Size batch, width;
  Call call;
  call.takes_dtype_of("lanes", lanes);
  call.out("rows", rows, {batch, width});
  call.in("lanes", lanes, {groups_of(batch), width, altmin::lanes});
  ALTMIN_RUN(deinterleave, call, Deinterleave<T>{batch, width, lanes, rows});
}

ALTMIN_REGISTER(deinterleave)

}  // namespace
}  // namespace altmin
