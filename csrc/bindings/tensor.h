// Tensor arguments of the Python functions: views of torch tensors, and their checks.
//
// Every check ends in one sentence that names the argument, what it was and what it must be.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <sstream>
#include <string>
#include <type_traits>

#include "dlpack.h"

namespace altmin {

namespace py = pybind11;

// The table of the tensor class that was seen last; there is hardly ever another than torch's.
inline const dlpack::ExchangeApi*& exchange_api_in_use() {
  static const dlpack::ExchangeApi* cached = nullptr;
  return cached;
}

inline const dlpack::ExchangeApi* exchange_api(py::handle object) {
  static PyTypeObject* cached_type = nullptr;
  PyTypeObject* type = Py_TYPE(object.ptr());
  if (type == cached_type) return exchange_api_in_use();
  py::object capsule = py::getattr(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__", py::none());
  if (capsule.is_none()) return nullptr;
  auto* header =
      static_cast<dlpack::ExchangeApiHeader*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (!header) throw py::error_already_set();
  while (header && header->version.major > 1) header = header->previous;
  const auto* api = reinterpret_cast<const dlpack::ExchangeApi*>(header);
  if (!api || !api->view_from_object) return nullptr;
  exchange_api_in_use() = api;
  cached_type = type;
  return api;
}

// A torch tensor seen from C++. Empty where Python passed None, or something `unreadable`.
class Tensor {
 public:
  dlpack::Tensor view{};
  bool present = false;
  py::handle unreadable;  // no tensor, or one whose memory cannot be viewed; check_readable names it

  explicit operator bool() const { return present; }

  template <typename T>
  T* data() const {
    return present ? reinterpret_cast<T*>(static_cast<char*>(view.data) + view.byte_offset) : nullptr;
  }
  int64_t size() const {
    int64_t size = 1;
    for (int i = 0; i < view.dimensions; ++i) size *= view.shape[i];
    return size;
  }
  int64_t bytes() const { return size() * view.dtype.bits / 8; }
  int64_t shape(int i) const { return view.shape[i]; }
  bool is_float(int bits) const { return view.dtype.code == dlpack::float_code && view.dtype.bits == bits; }

  std::string describe_dtype() const {
    const char* kind = view.dtype.code == dlpack::float_code      ? "float"
                       : view.dtype.code == dlpack::integer_code  ? "int"
                       : view.dtype.code == dlpack::unsigned_code ? "uint"
                                                                  : "dtype code ";
    if (*kind == 'd') return kind + std::to_string(view.dtype.code);
    return kind + std::to_string(view.dtype.bits);
  }
  std::string describe_shape() const {
    std::string text = "(";
    for (int i = 0; i < view.dimensions; ++i) text += (i ? ", " : "") + std::to_string(view.shape[i]);
    return text + (view.dimensions == 1 ? ",)" : ")");
  }
  bool has_shape_of(const Tensor& other) const {
    return view.dimensions == other.view.dimensions &&
           std::equal(view.shape, view.shape + view.dimensions, other.view.shape);
  }
  bool is_contiguous() const {
    if (!view.strides || size() == 0) return true;
    int64_t expected = 1;
    for (int i = view.dimensions - 1; i >= 0; --i) {
      if (view.shape[i] != 1 && view.strides[i] != expected) return false;
      expected *= view.shape[i];
    }
    return true;
  }
};

template <typename... Parts>
[[noreturn]] void raise_value_error(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw py::value_error(text.str());
}

template <typename... Parts>
[[noreturn]] void raise_type_error(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw py::type_error(text.str());
}

inline void check_readable(const Tensor& tensor, const std::string& name) {
  if (!tensor.unreadable) return;
  if (!exchange_api(tensor.unreadable))
    raise_type_error(name, " must be a torch.Tensor, but is of type ",
                     Py_TYPE(tensor.unreadable.ptr())->tp_name, ".");
  raise_value_error(name, " must be a dense tensor on the CPU or a GPU, but is on device ",
                    std::string(py::str(tensor.unreadable.attr("device"))), " with layout ",
                    std::string(py::str(tensor.unreadable.attr("layout"))), ".");
}

template <typename T>
constexpr const char* dtype_name() {
  if constexpr (std::is_same_v<T, float>) return "float32";
  if constexpr (std::is_same_v<T, double>) return "float64";
  if constexpr (std::is_same_v<T, uint8_t>) return "uint8";
  return "int64";
}

// Raises unless the tensor is contiguous, of type T and of the given shape.
template <typename T>
void check(const Tensor& tensor, const char* name, std::initializer_list<int64_t> shape) {
  if (tensor.unreadable) check_readable(tensor, name);
  if (!tensor) return;
  constexpr uint8_t code = std::is_floating_point_v<T> ? dlpack::float_code
                           : std::is_signed_v<T>       ? dlpack::integer_code
                                                       : dlpack::unsigned_code;
  if (tensor.view.dtype.code != code || tensor.view.dtype.bits != 8 * sizeof(T) || tensor.view.dtype.lanes != 1)
    raise_type_error(name, " must be ", dtype_name<T>(), ", but is ", tensor.describe_dtype(), ".");
  bool fits = tensor.view.dimensions == static_cast<int32_t>(shape.size());
  int i = 0;
  for (int64_t extent : shape) fits = fits && tensor.view.shape[i++] == extent;
  if (!fits) {
    std::string expected;
    for (int64_t extent : shape) expected += (expected.empty() ? "" : ", ") + std::to_string(extent);
    if (shape.size() == 1) expected += ",";
    raise_value_error(name, " must have shape (", expected, "), but has shape ", tensor.describe_shape(), ".");
  }
  if (!tensor.is_contiguous()) raise_value_error(name, " must be contiguous; pass ", name, ".contiguous().");
}

inline void check_dimensions(const Tensor& tensor, const char* name, int dimensions) {
  if (tensor.view.dimensions != dimensions)
    raise_value_error(name, " must have ", dimensions, " dimensions, but has shape ", tensor.describe_shape(),
                      ".");
}

struct Named {
  const char* name;
  const Tensor& tensor;
};

inline std::string describe_device(const dlpack::Device& device) {
  if (device.type == dlpack::cpu_device) return "the CPU";
  if (device.type == dlpack::cuda_device) return "cuda:" + std::to_string(device.id);
  return "a device of DLPack's type " + std::to_string(device.type);
}

// Raises unless the tensor is on that device, where `other` is.
inline void check_device(const Tensor& tensor, const std::string& name, const dlpack::Device& device,
                         const char* other) {
  if (!tensor || (tensor.view.device.type == device.type && tensor.view.device.id == device.id)) return;
  raise_value_error(name, " must be on ", describe_device(device), " like ", other, ", but is on ",
                    describe_device(tensor.view.device), ".");
}

// The device that all of a call's tensors are on.
inline dlpack::Device device_of(std::initializer_list<Named> tensors) {
  const Named* first = nullptr;
  for (const Named& named : tensors) {
    if (!named.tensor) continue;
    if (!first) first = &named;
    check_device(named.tensor, named.name, first->tensor.view.device, first->name);
  }
  return first ? first->tensor.view.device : dlpack::Device{dlpack::cpu_device, 0};
}

inline bool overlap(const Tensor& a, const Tensor& b) {
  const char *first = a.data<char>(), *second = b.data<char>();
  return a && b && first < second + b.bytes() && second < first + a.bytes();
}

// Raises if an output shares memory with an input that it may replace, but not as a whole.
inline void check_replacement(const Named& output, std::initializer_list<Named> inputs) {
  for (const Named& input : inputs)
    if (overlap(output.tensor, input.tensor) && output.tensor.data<char>() != input.tensor.data<char>())
      raise_value_error(output.name, " must be ", input.name, " itself or share no memory with it.");
}

// Raises if an output shares memory with another output or with an input it may not replace.
inline void check_overlap(std::initializer_list<Named> outputs, std::initializer_list<Named> inputs) {
  for (const Named* output = outputs.begin(); output != outputs.end(); ++output) {
    for (const Named* other = output + 1; other != outputs.end(); ++other)
      if (overlap(output->tensor, other->tensor))
        raise_value_error(output->name, " and ", other->name, " must not share memory.");
    for (const Named& input : inputs)
      if (overlap(output->tensor, input.tensor))
        raise_value_error(output->name, " and ", input.name, " must not share memory.");
  }
}

// Calls body with a value of the tensor's floating-point type.
template <typename Body>
auto dispatch_dtype(const Tensor& tensor, const char* name, const Body& body) {
  if (tensor.is_float(32)) return body(float{});
  if (tensor.is_float(64)) return body(double{});
  raise_type_error(name, " must be float32 or float64, but is ", tensor.describe_dtype(), ".");
}

}  // namespace altmin

namespace pybind11::detail {

template <>
struct type_caster<altmin::Tensor> {
  PYBIND11_TYPE_CASTER(altmin::Tensor, const_name("torch.Tensor | None"));
  bool load(handle source, bool) {
    if (source.is_none()) return true;
    const altmin::dlpack::ExchangeApi* api = altmin::exchange_api(source);
    value.present = api && api->view_from_object(source.ptr(), &value.view) == 0;
    if (!value.present) {
      PyErr_Clear();
      value.unreadable = source;
    }
    return true;
  }
};

}  // namespace pybind11::detail
