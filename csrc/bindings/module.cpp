// The Python module altmin_ext._C. Ops are entered from the files that they are in; here is what is about the module.
#include <dlfcn.h>
#include <omp.h>

#include "cpu/blas.h"
#include "cuda/device.h"
#include "ops/code_step.h"
#include "ops/lanes.h"
#include "run.h"

namespace altmin {
namespace {

template <size_t n>
py::tuple name_tuple(const char* const (&names)[n]) {
  py::tuple result(n);
  for (size_t i = 0; i < n; ++i) result[i] = py::str(names[i]);
  return result;
}

bool activation_is_monotone(const Sigma& sigma) { return is_monotone(sigma.kind, sigma.parameter); }

int threads() {
  follow_torch_threads();
  return omp_get_max_threads();
}

// The file of the OpenMP runtime that the kernels run on.
std::string openmp_runtime() {
  Dl_info found{};
  return dladdr(reinterpret_cast<const void*>(&omp_get_max_threads), &found) ? found.dli_fname : "";
}

}  // namespace

void follow_torch_threads() {
  static thread_local bool follows = false;
  if (follows) return;
  py::module_::import("torch").attr("get_num_threads")();  // which sets the number first
  follows = true;
}

}  // namespace altmin

PYBIND11_MODULE(_C, module, pybind11::mod_gil_not_used()) {
  using namespace altmin;
  module.doc() = "Native kernels of altmin_ext; use them through altmin_ext.ops.";
  for (const Registration::Function enter : Registration::all()) enter(module);

  module.attr("activation_names") = name_tuple(activation_names);
  module.attr("code_scalar_names") = name_tuple(code_scalar_names);
  module.attr("update_scalar_names") = name_tuple(update_scalar_names);
  module.attr("adam_scalar_names") = name_tuple(adam_scalar_names);
  module.attr("memory_scalar_names") = name_tuple(memory_scalar_names);
  module.attr("lanes") = lanes;
  module.attr("smallest_displacement") = smallest_displacement;
  module.def("is_monotone", &activation_is_monotone);

  module.attr("version") = ALTMIN_VERSION;
  module.attr("compiler") = ALTMIN_COMPILER;
  module.attr("flags") = ALTMIN_FLAGS;
  module.attr("cuda_reason") = ALTMIN_CUDA_REASON;
  module.def("instruction_set", &cpu::instruction_set);
  module.def("use_instruction_set", &cpu::use_instruction_set);
  module.def("matmul_backend", &cpu::use_matmul_backend);
  module.def("threads", &threads);
  module.def("openmp_runtime", &openmp_runtime);
  module.def("cuda_compiled_version", &cuda::compiled_version);
  module.def("cuda_device_count", &cuda::device_count);
}
