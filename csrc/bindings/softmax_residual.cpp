#include "ops/softmax_residual.h"

#include "run.h"

namespace altmin {
namespace {

void softmax_residual(const Tensor& logits, const Tensor& labels, const Tensor& bias, const Tensor& residual,
                      const Tensor& bias_gradient, const Tensor& loss, const Tensor& correct,
                      const Tensor& guard) {
  Size batch, classes;
  Call call;
  call.in("logits", logits, {batch, classes});
  if (classes == 0) raise_value_error("logits must have at least one column, but has none.");
  call.in("labels", labels, {batch}, int64);
  call.in("bias", bias, {classes}, optional);
  call.out("residual", residual, {batch, classes}).may_be(logits);
  call.out("bias_gradient", bias_gradient, {classes}, optional);
  call.out("loss", loss, {});
  call.out("correct", correct, {}, int64);
  call.in_out("guard", guard, {1}, float64 | optional);
  const int64_t wrong = ALTMIN_RUN(
      softmax_residual, call,
      SoftmaxResidual<T>{batch, classes, logits, bias, labels, residual, bias_gradient, loss, correct, guard});
  check_labels(wrong, labels, classes);
}

ALTMIN_REGISTER(softmax_residual)

}  // namespace
}  // namespace altmin
