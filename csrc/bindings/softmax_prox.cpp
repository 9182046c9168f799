#include "ops/softmax_prox.h"

#include "run.h"

namespace altmin {
namespace {

void softmax_prox(const Tensor& center, const Tensor& labels, const Tensor& out, py::handle rho,
                  const Tensor& guard) {
  Size batch, classes;
  Call call;
  call.in("center", center, {batch, classes});
  if (classes == 0) raise_value_error("center must have at least one column, but has none.");
  call.in("labels", labels, {batch}, int64);
  call.out("out", out, {batch, classes}).may_be(center);
  call.in_out("guard", guard, {1}, float64 | optional);
  const double weight = positive("rho", rho);
  const int64_t wrong =
      ALTMIN_RUN(softmax_prox, call, SoftmaxProx<T>{batch, classes, center, labels, out, weight, guard});
  check_labels(wrong, labels, classes);
}

ALTMIN_REGISTER(softmax_prox)

}  // namespace
}  // namespace altmin
