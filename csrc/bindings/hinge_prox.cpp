#include "ops/hinge_prox.h"

#include "run.h"

namespace altmin {
namespace {

void hinge_prox(const Tensor& center, const Tensor& targets, const Tensor& multiplier, const Tensor& out,
                py::handle beta, const Tensor& guard) {
  Size batch, width;
  Call call;
  call.in("center", center, {batch, width});
  call.in("targets", targets, {batch, width});
  call.in("multiplier", multiplier, {batch, width});
  call.out("out", out, {batch, width}).may_be(center);
  call.in_out("guard", guard, {1}, float64 | optional);
  const double weight = positive("beta", beta);
  ALTMIN_RUN(hinge_prox, call, HingeProx<T>{batch * width, center, targets, multiplier, out, weight, guard});
}

ALTMIN_REGISTER(hinge_prox)

}  // namespace
}  // namespace altmin
