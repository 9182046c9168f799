#include "ops/code_step.h"

#include "run.h"

namespace altmin {
namespace {

void code_step(const Tensor& code, const Tensor& pulled_back, const Tensor& pulled_back_change,
               const Tensor& mask, const Tensor& displacement, const Tensor& velocity, const Tensor& activation,
               const Tensor& activation_displacement, const Tensor& gap, const Tensor& scalars,
               const Tensor& above, py::handle first, const Sigma& sigma, const Tensor& guard) {
  const bool is_first = flag("first", first);
  const bool at_rest = sigma.kind == Activation::relu || sigma.kind == Activation::identity;
  Size batch, width;
  Call call;
  call.in("code", code, {batch, width});
  call.in("pulled_back", pulled_back, {batch, width});
  call.in("pulled_back_change", pulled_back_change, {batch, width}, optional);
  call.in("mask", mask, {batch, width}, optional);
  call.in_out("displacement", displacement, {batch, width}).may_be(pulled_back, is_first);
  call.in_out("velocity", velocity, {batch, width}, optional);
  call.out("activation", activation, {batch, width}).may_be(code, is_first && at_rest);
  call.out("activation_displacement", activation_displacement, {batch, width}, optional);
  call.in("gap", gap, {batch, width}, optional);
  call.in_out("scalars", scalars, {code_scalar_count}, float64);
  call.in("above", above, {code_scalar_count}, float64 | optional);
  call.in_out("guard", guard, {1}, float64 | optional);
  ALTMIN_RUN(code_step, call,
             CodeStep<T>{batch * width, code, pulled_back, pulled_back_change, mask, displacement, velocity,
                         activation, activation_displacement, scalars, above, is_first, sigma.kind,
                         T(sigma.parameter), guard, gap});
}

ALTMIN_REGISTER(code_step)

}  // namespace
}  // namespace altmin
