#include "ops/sgd_update.h"

#include "run.h"
#include "update.h"

namespace altmin {
namespace {

void sgd_update(const TensorList& weights, const TensorList& gradients, const Tensor& scalars,
                const Tensor& guard, const Tensor& guard_index) {
  Call call;
  call.lists({{"weights", weights}, {"gradients", gradients}});
  for (size_t i = 0; i < weights.size(); ++i) {
    const Shape shape = Shape::of(weights[i]);
    call.in_out("weights", weights, i, shape);
    call.in("gradients", gradients, i, shape);
  }
  const UpdateFlags flags(call, weights, scalars, guard, guard_index);
  ALTMIN_RUN(sgd_update, call,
             SgdUpdate<T>{rows<SgdTensor<T>>(weights.size(),
                                             [&](size_t i) {
                                               return SgdTensor<T>{weights[i].size(), weights[i], gradients[i],
                                                                   scalars.data<UpdateScalars>() + i, flags[i]};
                                             }),
                          guard, flags.count});
}

ALTMIN_REGISTER(sgd_update)

}  // namespace
}  // namespace altmin
