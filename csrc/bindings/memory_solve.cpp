#include "ops/memory_solve.h"

#include "run.h"

namespace altmin {
namespace {

void memory_solve(const Tensor& inputs, const Tensor& product, const Tensor& factor, const Tensor& solution,
                  const Tensor& smallest_pivot, py::handle removes) {
  Size batch, n;
  Call call;
  call.in("inputs", inputs, {batch, n});
  call.in("product", product, {batch, n});
  call.out("factor", factor, {batch, n}).may_be(product);
  call.out("solution", solution, {batch, n});
  call.out("smallest_pivot", smallest_pivot, {1}, float64);
  const bool takes_out = flag("removes", removes);
  ALTMIN_RUN(memory_solve, call,
             MemorySolve<T>{batch, n, inputs, product, factor, solution, smallest_pivot, takes_out});
}

ALTMIN_REGISTER(memory_solve)

}  // namespace
}  // namespace altmin
