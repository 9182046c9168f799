#include "ops/power_iteration.h"

#include "run.h"

namespace altmin {
namespace {

void power_iteration(const TensorList& weights, const TensorList& vectors, const TensorList& sigma_squared) {
  Call call;
  call.lists({{"weights", weights}, {"vectors", vectors}, {"sigma_squared", sigma_squared}});
  for (size_t i = 0; i < weights.size(); ++i) {
    Size rows, columns;
    call.in("weights", weights, i, {rows, columns});
    call.in_out("vectors", vectors, i, {columns});
    call.out("sigma_squared", sigma_squared, i, {1}, float64);
  }
  ALTMIN_RUN(power_iteration, call,
             PowerIteration<T>{rows<PowerIterationMatrix<T>>(weights.size(), [&](size_t i) {
               return PowerIterationMatrix<T>{weights[i].shape(0), weights[i].shape(1), weights[i], vectors[i],
                                              sigma_squared[i]};
             })});
}

ALTMIN_REGISTER(power_iteration)

}  // namespace
}  // namespace altmin
