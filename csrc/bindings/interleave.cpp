#include "ops/interleave.h"

#include "ops/lanes.h"
#include "run.h"

namespace altmin {
namespace {

void interleave(const Tensor& rows, const Tensor& lanes) {
  Size batch, width;
  Call call;
  call.in("rows", rows, {batch, width});
  call.out("lanes", lanes, {groups_of(batch), width, altmin::lanes});
  ALTMIN_RUN(interleave, call, Interleave<T>{batch, width, rows, lanes});
}

ALTMIN_REGISTER(interleave)

}  // namespace
}  // namespace altmin
