#include "ops/memory_solve.h"

#include "run.h"

namespace altmin {
namespace {

void memory_solve(const Tensor& activation, const Tensor& product, const Tensor& bias, const Tensor& factor,
                  const Tensor& solution, const Tensor& smallest_pivot, const Tensor& scalars,
                  py::handle removes) {
  Size batch, n_in, n;
  Call call;
  call.in("activation", activation, {batch, n_in});
  n.value = n_in + (bias.object ? 1 : 0);
  call.in("product", product, {batch, n});
  call.in("bias", bias, {n}, optional);
  call.out("factor", factor, {batch, n}).may_be(product);
  call.out("solution", solution, {batch, n});
  call.out("smallest_pivot", smallest_pivot, {1}, float64);
  call.in("scalars", scalars, {memory_scalar_count}, float64);
  const bool takes_out = flag("removes", removes);
  ALTMIN_RUN(memory_solve, call,
             MemorySolve<T>{batch, n_in, n, activation, product, bias, factor, solution, smallest_pivot,
                            scalars, takes_out});
}

ALTMIN_REGISTER(memory_solve)

}  // namespace
}  // namespace altmin
