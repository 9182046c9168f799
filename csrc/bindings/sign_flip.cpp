#include "ops/sign_flip.h"

#include "run.h"

namespace altmin {
namespace {

void sign_flip(const Tensor& code, const Tensor& pulled_back, const Tensor& norm, const Tensor& mask,
               const Tensor& displacement, const Tensor& scalars, const Tensor& above, const Tensor& guard) {
  Size batch, width;
  Call call;
  call.in("code", code, {batch, width});
  call.in("pulled_back", pulled_back, {batch, width});
  call.in("norm", norm, {width});
  call.in("mask", mask, {batch, width}, optional);
  call.out("displacement", displacement, {batch, width}).may_be(pulled_back);
  call.in_out("scalars", scalars, {code_scalar_count}, float64);
  call.in("above", above, {code_scalar_count}, float64 | optional);
  call.in_out("guard", guard, {1}, float64 | optional);
  ALTMIN_RUN(
      sign_flip, call,
      SignFlip<T>{batch * width, width, code, pulled_back, norm, mask, displacement, scalars, above, guard});
}

ALTMIN_REGISTER(sign_flip)

}  // namespace
}  // namespace altmin
