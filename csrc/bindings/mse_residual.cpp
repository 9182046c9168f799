#include "ops/mse_residual.h"

#include "run.h"

namespace altmin {
namespace {

void mse_residual(const Tensor& logits, const Tensor& targets, const Tensor& bias, const Tensor& residual,
                  const Tensor& bias_gradient, const Tensor& loss, const Tensor& guard) {
  Size batch, width;
  Call call;
  call.in("logits", logits, {batch, width});
  call.in("targets", targets, {batch, width});
  call.in("bias", bias, {width}, optional);
  call.out("residual", residual, {batch, width}).may_be(logits);
  call.out("bias_gradient", bias_gradient, {width}, optional);
  call.out("loss", loss, {});
  call.in_out("guard", guard, {1}, float64 | optional);
  ALTMIN_RUN(mse_residual, call,
             MseResidual<T>{batch, width, logits, bias, targets, residual, bias_gradient, loss, guard});
}

ALTMIN_REGISTER(mse_residual)

}  // namespace
}  // namespace altmin
