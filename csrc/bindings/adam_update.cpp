#include "ops/adam_update.h"

#include "run.h"
#include "update.h"

namespace altmin {
namespace {

void adam_update(const TensorList& weights, const TensorList& gradients, const TensorList& first_moments,
                 const TensorList& second_moments, const Tensor& scalars, const Tensor& adam,
                 const Tensor& guard, const Tensor& guard_index) {
  Call call;
  call.lists({{"weights", weights},
              {"gradients", gradients},
              {"first_moments", first_moments},
              {"second_moments", second_moments}});
  for (size_t i = 0; i < weights.size(); ++i) {
    const Shape shape = Shape::of(weights[i]);
    call.in_out("weights", weights, i, shape);
    call.in("gradients", gradients, i, shape);
    call.in_out("first_moments", first_moments, i, shape);
    call.in_out("second_moments", second_moments, i, shape);
  }
  call.in_out("adam", adam, {adam_scalar_count}, float64);
  const UpdateFlags flags(call, weights, scalars, guard, guard_index);
  ALTMIN_RUN(adam_update, call,
             AdamUpdate<T>{rows<AdamTensor<T>>(weights.size(),
                                               [&](size_t i) {
                                                 return AdamTensor<T>{
                                                     weights[i].size(), weights[i],
                                                     gradients[i],      first_moments[i],
                                                     second_moments[i], scalars.data<UpdateScalars>() + i,
                                                     flags[i]};
                                               }),
                           adam, guard, flags.count});
}

ALTMIN_REGISTER(adam_update)

}  // namespace
}  // namespace altmin
