// What every function of the module does with an op: run it where its arguments are.
#pragma once

#include <iterator>
#include <vector>

#include "ops/activation.h"
#include "ops/backend.h"
#include "ops/scalars.h"
#include "tensor.h"
#if defined(ALTMIN_WITH_CUDA)
#include "cuda/device.h"
#endif

namespace altmin {

inline constexpr int64_t code_scalar_count = std::size(code_scalar_names);
inline constexpr int64_t memory_scalar_count = std::size(memory_scalar_names);

inline void require(const Tensor& tensor, const char* name) {
  check_readable(tensor, name);
  if (!tensor) raise_type_error(name, " must be a torch.Tensor, but is None.");
}

// Enters functions into the module from the file that they are in.
struct Registration {
  using Function = void (*)(py::module_&);
  static std::vector<Function>& all() {
    static std::vector<Function> functions;
    return functions;
  }
  explicit Registration(Function function) { all().push_back(function); }
};

// Runs an op's kernel for the device of its arguments, without the interpreter's lock.
#if defined(ALTMIN_WITH_CUDA)
inline cuda::Stream current_stream(const dlpack::Device& device) {
  void* stream = nullptr;
  const dlpack::ExchangeApi* api = exchange_api_in_use();
  if (api->current_work_stream(device.type, device.id, &stream) != 0) throw py::error_already_set();
  return static_cast<cuda::Stream>(stream);
}

template <typename OnCpu, typename OnCuda>
auto run(const dlpack::Device& device, const OnCpu& on_cpu, const OnCuda& on_cuda) {
  if (device.type == dlpack::cuda_device) {
    const cuda::Stream stream = current_stream(device);
    py::gil_scoped_release release;
    const cuda::DeviceGuard guard(device.id);
    return on_cuda(stream);
  }
  py::gil_scoped_release release;
  return on_cpu();
}
#define ALTMIN_RUN(op, device, arguments)           \
  run((device), [&] { return cpu::op(arguments); }, \
      [&](cuda::Stream stream) { return cuda::op(arguments, stream); })
#else
template <typename OnCpu>
auto run(const dlpack::Device& device, const OnCpu& on_cpu) {
  if (device.type != dlpack::cpu_device)
    raise_value_error("the arguments must be on the CPU, but are on ", describe_device(device),
                      ": this build has no CUDA kernels (", ALTMIN_CUDA_REASON, ").");
  py::gil_scoped_release release;
  return on_cpu();
}
#define ALTMIN_RUN(op, device, arguments) run((device), [&] { return cpu::op(arguments); })
#endif

inline Activation activation_kind(int kind) {
  if (kind < 0 || kind >= static_cast<int>(std::size(activation_names)))
    raise_value_error("kind must be an index of activation_names, but is ", kind, ".");
  return static_cast<Activation>(kind);
}

}  // namespace altmin
