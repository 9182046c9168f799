#include "ops/activation_vjp.h"

#include "run.h"

namespace altmin {
namespace {

void activation_vjp(const Tensor& code, const Tensor& gradient, const Tensor& out, const Sigma& sigma) {
  Call call;
  call.in("code", code, Shape::of(code));
  call.in("gradient", gradient, Shape::of(code));
  call.out("out", out, Shape::of(code)).may_be(gradient);
  ALTMIN_RUN(activation_vjp, call,
             ActivationVjp<T>{code.size(), code, gradient, out, sigma.kind, T(sigma.parameter)});
}

ALTMIN_REGISTER(activation_vjp)

}  // namespace
}  // namespace altmin
