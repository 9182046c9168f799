#include "ops/matmul.h"

#include "run.h"

namespace altmin {
namespace {

py::object view(const Tensor& matrix, bool transposed) {
  const auto object = py::reinterpret_borrow<py::object>(matrix.object);
  return transposed ? object.attr("t")() : object;
}

void matmul(const Tensor& a, const Tensor& b, const Tensor& out, py::handle transpose_a,
            py::handle transpose_b) {
  Size m, n, k;
  Call call;
  const bool a_is_transposed = flag("transpose_a", transpose_a),
             b_is_transposed = flag("transpose_b", transpose_b);
  call.in("a", a, a_is_transposed ? Shape{k, m} : Shape{m, k});
  call.in("b", b, b_is_transposed ? Shape{n, k} : Shape{k, n});
  call.out("out", out, {m, n});
  if (call.device().type == dlpack::cuda_device) {  // torch has cuBLAS, to which we have nothing to add
    py::module_::import("torch").attr("mm")(view(a, a_is_transposed), view(b, b_is_transposed),
                                            py::arg("out") = out.object);
    return;
  }
  ALTMIN_RUN(matmul, call, MatMul<T>{m, n, k, a, b, out, a_is_transposed, b_is_transposed});
}

ALTMIN_REGISTER(matmul)

}  // namespace
}  // namespace altmin
