#include "ops/activate.h"

#include "run.h"

namespace altmin {
namespace {

void activate(const Tensor& code, const Tensor& bias, const Tensor& mask, const Tensor& activation,
              const Sigma& sigma, const Tensor& guard) {
  Size batch, width;
  Call call;
  call.in_out("code", code, {batch, width});
  call.in("bias", bias, {width}, optional);
  call.in("mask", mask, {batch, width}, optional);
  call.out("activation", activation, {batch, width}).may_be(code);
  call.in_out("guard", guard, {1}, float64 | optional);
  ALTMIN_RUN(activate, call,
             Activate<T>{batch, width, code, bias, mask, activation, sigma.kind, T(sigma.parameter), guard});
}

ALTMIN_REGISTER(activate)

}  // namespace
}  // namespace altmin
