#include "ops/weight_residual.h"

#include "run.h"

namespace altmin {
namespace {

void weight_residual(const TensorList& displacements, const TensorList& products, const TensorList& biases,
                     const TensorList& codes, const TensorList& residuals, const TensorList& bias_gradients,
                     const TensorList& scalars, const TensorList& below, const Tensor& guard) {
  Call call;
  call.lists({{"displacements", displacements},
              {"products", products},
              {"biases", biases},
              {"codes", codes},
              {"residuals", residuals},
              {"bias_gradients", bias_gradients},
              {"scalars", scalars},
              {"below", below}});
  const size_t stages = displacements.size();
  Size batch;
  std::vector<Size> widths(stages);
  for (size_t i = 0; i < stages; ++i) {
    Size& width = widths[i];
    call.in("displacements", displacements, i, {batch, width});
    call.in("products", products, i, {batch, width}, optional);
    call.in("biases", biases, i, {width}, optional);
    call.in("codes", codes, i, {batch, width}, optional);
    call.out("residuals", residuals, i, {batch, width}).may_be(displacements[i]).may_be(products[i]);
    call.out("bias_gradients", bias_gradients, i, {width}, optional);
    call.in_out("scalars", scalars, i, {code_scalar_count}, float64);
    call.in("below", below, i, {code_scalar_count}, float64 | optional).may_be_in(scalars).may_be_written();
  }
  call.in_out("guard", guard, {static_cast<int64_t>(stages)}, float64 | optional);
  ALTMIN_RUN(weight_residual, call,
             WeightResidual<T>{batch, rows<WeightResidualStage<T>>(stages, [&](size_t i) {
                                 double* flag = guard;
                                 return WeightResidualStage<T>{widths[i],         displacements[i],
                                                               products[i],       biases[i],
                                                               codes[i],          residuals[i],
                                                               bias_gradients[i], scalars[i],
                                                               below[i],          flag ? flag + i : nullptr};
                               })});
}

ALTMIN_REGISTER(weight_residual)

}  // namespace
}  // namespace altmin
