#include "ops/activation_difference.h"

#include "run.h"

namespace altmin {
namespace {

void activation_difference(const Tensor& code, const Tensor& moved, const Tensor& unit, const Tensor& point,
                           const Tensor& difference, const Sigma& sigma) {
  Call call;
  call.in("code", code, Shape::of(code));
  call.in("moved", moved, Shape::of(code));
  call.in("unit", unit, {}, float64);
  call.out("point", point, Shape::of(code), optional);
  call.out("difference", difference, Shape::of(code));
  ALTMIN_RUN(activation_difference, call,
             ActivationDifference<T>{code.size(), code, moved, unit, point, difference, sigma.kind,
                                     T(sigma.parameter)});
}

ALTMIN_REGISTER(activation_difference)

}  // namespace
}  // namespace altmin
