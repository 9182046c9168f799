// Proximal maps: the codes and outputs that methods with penalties and multipliers solve for in closed form.
#include <cmath>

#include "ops/hinge_prox.h"
#include "ops/relu_prox.h"
#include "ops/softmax_prox.h"
#include "run.h"

namespace altmin {
namespace {

void check_positive(double value, const char* name) {
  if (!(std::isnormal(value) && value > 0))
    raise_value_error(name, " must be positive and finite, but is ", value, ".");
}

void relu_prox(const Tensor& activation, const Tensor& center, const Tensor& out, double gamma, double beta,
               const Tensor& guard) {
  for (const Named& named : {Named{"activation", activation}, Named{"center", center}, Named{"out", out}})
    require(named.tensor, named.name);
  check_dimensions(activation, "activation", 2);
  const int64_t batch = activation.shape(0), width = activation.shape(1);
  check_positive(gamma, "gamma");
  check_positive(beta, "beta");
  check<double>(guard, "guard", {1});
  const dlpack::Device device =
      device_of({{"activation", activation}, {"center", center}, {"out", out}, {"guard", guard}});
  check_overlap({{"guard", guard}}, {{"activation", activation}, {"center", center}, {"out", out}});
  check_replacement({"out", out}, {{"activation", activation}, {"center", center}});
  dispatch_dtype(activation, "activation", [&](auto zero) {
    using T = decltype(zero);
    for (const Named& named : {Named{"activation", activation}, Named{"center", center}, Named{"out", out}})
      check<T>(named.tensor, named.name, {batch, width});
    const ReluProx<T> arguments{batch * width, activation.data<T>(), center.data<T>(), out.data<T>(), gamma,
                                beta,          guard.data<double>()};
    ALTMIN_RUN(relu_prox, device, arguments);
  });
}

void softmax_prox(const Tensor& center, const Tensor& labels, const Tensor& out, double rho,
                  const Tensor& guard) {
  for (const Named& named : {Named{"center", center}, Named{"labels", labels}, Named{"out", out}})
    require(named.tensor, named.name);
  check_dimensions(center, "center", 2);
  const int64_t batch = center.shape(0), classes = center.shape(1);
  if (classes == 0) raise_value_error("center must have at least one column, but has none.");
  check_positive(rho, "rho");
  check<int64_t>(labels, "labels", {batch});
  check<double>(guard, "guard", {1});
  const dlpack::Device device =
      device_of({{"center", center}, {"labels", labels}, {"out", out}, {"guard", guard}});
  check_overlap({{"guard", guard}}, {{"center", center}, {"labels", labels}, {"out", out}});
  check_overlap({{"out", out}}, {{"labels", labels}});
  check_replacement({"out", out}, {{"center", center}});
  const int64_t wrong = dispatch_dtype(center, "center", [&](auto zero) {
    using T = decltype(zero);
    check<T>(center, "center", {batch, classes});
    check<T>(out, "out", {batch, classes});
    const SoftmaxProx<T> arguments{batch,         classes, center.data<T>(),    labels.data<int64_t>(),
                                   out.data<T>(), rho,     guard.data<double>()};
    return ALTMIN_RUN(softmax_prox, device, arguments);
  });
  if (wrong >= 0)
    raise_value_error("y must lie in [0, ", classes, "), but y[", wrong, "] is ", labels.data<int64_t>()[wrong],
                      ".");
}

void hinge_prox(const Tensor& center, const Tensor& targets, const Tensor& multiplier, const Tensor& out,
                double beta, const Tensor& guard) {
  for (const Named& named :
       {Named{"center", center}, Named{"targets", targets}, Named{"multiplier", multiplier}, Named{"out", out}})
    require(named.tensor, named.name);
  check_dimensions(center, "center", 2);
  const int64_t batch = center.shape(0), width = center.shape(1);
  check_positive(beta, "beta");
  check<double>(guard, "guard", {1});
  const dlpack::Device device = device_of(
      {{"center", center}, {"targets", targets}, {"multiplier", multiplier}, {"out", out}, {"guard", guard}});
  check_overlap({{"out", out}, {"guard", guard}}, {{"targets", targets}, {"multiplier", multiplier}});
  check_overlap({{"guard", guard}}, {{"center", center}});
  check_replacement({"out", out}, {{"center", center}});
  dispatch_dtype(center, "center", [&](auto zero) {
    using T = decltype(zero);
    for (const Named& named : {Named{"center", center}, Named{"targets", targets},
                               Named{"multiplier", multiplier}, Named{"out", out}})
      check<T>(named.tensor, named.name, {batch, width});
    const HingeProx<T> arguments{batch * width,        center.data<T>(), targets.data<T>(),
                                 multiplier.data<T>(), out.data<T>(),    beta,
                                 guard.data<double>()};
    ALTMIN_RUN(hinge_prox, device, arguments);
  });
}

const Registration proximal_maps([](py::module_& module) {
  module.def("relu_prox", &relu_prox);
  module.def("softmax_prox", &softmax_prox);
  module.def("hinge_prox", &hinge_prox);
});

}  // namespace
}  // namespace altmin
