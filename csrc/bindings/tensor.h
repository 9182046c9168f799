// What Python passes to an op: views of torch tensors, lists of them, and an activation.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "dlpack.h"
#include "ops/activation.h"

namespace altmin {

namespace py = pybind11;

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

inline const char* type_name(py::handle object) { return Py_TYPE(object.ptr())->tp_name; }

// The table that the type of a tensor publishes, or null if it is no tensor.
const dlpack::ExchangeApi* exchange_api(py::handle object);
// That of the tensor seen last, which serves all.
const dlpack::ExchangeApi* exchange_api_in_use();

// A torch tensor seen from C++, which Python keeps alive. Empty where Python passed None.
class Tensor {
 public:
  dlpack::Tensor view{};
  py::handle object;      // null for None
  bool readable = false;  // whether the view is one; Call tells what is wrong otherwise

  explicit operator bool() const { return readable; }

  // To the pointers of an op's arguments, once a Call has checked what it points to.
  template <typename T>
  operator T*() const {
    return data<T>();
  }
  template <typename T>
  T* data() const {
    return readable ? reinterpret_cast<T*>(static_cast<char*>(view.data) + view.byte_offset) : nullptr;
  }
  // Unsigned, since what is zero in the end may overflow before.
  int64_t size() const {
    uint64_t size = 1;
    for (int i = 0; i < view.dimensions; ++i) size *= static_cast<uint64_t>(view.shape[i]);
    return static_cast<int64_t>(size);
  }
  int64_t shape(int i) const { return view.shape[i]; }
};

// A list of tensors, whose items it keeps alive.
class TensorList {
 public:
  py::object items;   // a tuple of them; null where Python passed something that is no sequence
  py::handle object;  // what Python passed
  std::vector<Tensor> tensors;

  size_t size() const { return tensors.size(); }
  const Tensor& operator[](size_t i) const { return tensors[i]; }
};

// The Python class Activation.
struct Sigma {
  Activation kind;
  double parameter;
};

}  // namespace altmin

namespace pybind11::detail {

template <>
struct type_caster<altmin::Tensor> {
  PYBIND11_TYPE_CASTER(altmin::Tensor, const_name("torch.Tensor | None"));
  bool load(handle source, bool);
};

template <>
struct type_caster<altmin::TensorList> {
  PYBIND11_TYPE_CASTER(altmin::TensorList, const_name("list[torch.Tensor | None]"));
  bool load(handle source, bool);
};

template <>
struct type_caster<altmin::Sigma> {
  PYBIND11_TYPE_CASTER(altmin::Sigma, const_name("altmin_ext.ops.Activation"));
  bool load(handle source, bool);
};

}  // namespace pybind11::detail
