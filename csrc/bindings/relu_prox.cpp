#include "ops/relu_prox.h"

#include "run.h"

namespace altmin {
namespace {

void relu_prox(const Tensor& activation, const Tensor& center, const Tensor& out, py::handle gamma,
               py::handle beta, const Tensor& guard) {
  Size batch, width;
  Call call;
  call.in("activation", activation, {batch, width});
  call.in("center", center, {batch, width});
  call.out("out", out, {batch, width}).may_be(activation).may_be(center);
  call.in_out("guard", guard, {1}, float64 | optional);
  const double of_activation = positive("gamma", gamma), of_center = positive("beta", beta);
  ALTMIN_RUN(relu_prox, call,
             ReluProx<T>{batch * width, activation, center, out, of_activation, of_center, guard});
}

ALTMIN_REGISTER(relu_prox)

}  // namespace
}  // namespace altmin
