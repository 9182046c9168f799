#include "tensor.h"

#include <atomic>
#include <cmath>
#include <iterator>

namespace altmin {
namespace {

std::atomic<const dlpack::ExchangeApi*> in_use = nullptr;

const dlpack::ExchangeApi* look_up_exchange_api(PyTypeObject* type) {
  const py::object capsule =
      py::getattr(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__", py::none());
  if (capsule.is_none()) return nullptr;
  auto* header =
      static_cast<dlpack::ExchangeApiHeader*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (!header) throw py::error_already_set();
  while (header && header->version.major > 1) header = header->previous;
  const auto* api = reinterpret_cast<const dlpack::ExchangeApi*>(header);
  return api && api->view_from_object ? api : nullptr;
}

// Whether a subclass says itself, in Python, what an operation on its tensors is: such a tensor need not have memory,
// nor need what it stands for lie there.
bool interprets_operations(PyTypeObject* type) {
  const py::object own = py::getattr(reinterpret_cast<PyObject*>(type), "__torch_dispatch__", py::none());
  return !own.is_none() && !PyCFunction_Check(own.ptr());
}

// The table for a tensor whose memory may be read, else null.
const dlpack::ExchangeApi* exchange_api_of_plain(py::handle object) {
  // Types seen lately, kept alive: Tensor and Parameter alternate within a call.
  static std::atomic<PyTypeObject*> known[4] = {};
  static std::atomic<unsigned> oldest = 0;
  PyTypeObject* type = Py_TYPE(object.ptr());
  if (std::find(known, std::end(known), type) != std::end(known)) return in_use;
  const dlpack::ExchangeApi* api = look_up_exchange_api(type);
  if (!api || interprets_operations(type)) return nullptr;
  in_use = api;  // before a thread without the interpreter's lock may find the type
  Py_INCREF(type);
  Py_XDECREF(known[oldest++ % std::size(known)].exchange(type));
  return api;
}

}  // namespace

const dlpack::ExchangeApi* exchange_api_in_use() { return in_use; }

const dlpack::ExchangeApi* exchange_api(py::handle object) {
  return look_up_exchange_api(Py_TYPE(object.ptr()));
}

}  // namespace altmin

namespace pybind11::detail {

bool type_caster<altmin::Tensor>::load(handle source, bool) {
  if (source.is_none()) return true;
  value.object = source;
  const altmin::dlpack::ExchangeApi* api = altmin::exchange_api_of_plain(source);
  value.readable = api && api->view_from_object(source.ptr(), &value.view) == 0;
  if (!value.readable) PyErr_Clear();
  return true;
}

bool type_caster<altmin::TensorList>::load(handle source, bool) {
  value.object = source;
  // A tuple of its own, which no other thread can change while the interpreter's lock is released.
  if (PySequence_Check(source.ptr())) value.items = reinterpret_steal<object>(PySequence_Tuple(source.ptr()));
  if (!value.items) {
    // What is no sequence, or cannot be gone through. What a sequence of the user's raises is the user's.
    if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_TypeError)) throw error_already_set();
    PyErr_Clear();
    return true;
  }
  const auto count = static_cast<size_t>(PyTuple_GET_SIZE(value.items.ptr()));
  value.tensors.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    type_caster<altmin::Tensor> item;
    item.load(PyTuple_GET_ITEM(value.items.ptr(), i), false);
    value.tensors.push_back(static_cast<altmin::Tensor&>(item));
  }
  return true;
}

bool type_caster<altmin::Sigma>::load(handle source, bool) {
  static PyObject* const kind = PyUnicode_InternFromString("kind");
  static PyObject* const parameter = PyUnicode_InternFromString("parameter");
  const auto number = reinterpret_steal<object>(PyObject_GetAttr(source.ptr(), kind));
  const auto real = reinterpret_steal<object>(PyObject_GetAttr(source.ptr(), parameter));
  int overflow = 0;
  const long index = number ? PyLong_AsLongAndOverflow(number.ptr(), &overflow) : 0;
  if (PyErr_Occurred()) {
    PyErr_Clear();
    altmin::raise_type_error("sigma must be an altmin_ext.ops.Activation, but is of type ",
                             altmin::type_name(source), ".");
  }
  if (overflow || index < 0 || index >= static_cast<long>(std::size(altmin::activation_names)))
    altmin::raise_value_error("sigma.kind must be an index of activation_names, but is ",
                              std::string(str(number)), ".");
  const double slope = PyFloat_AsDouble(real.ptr());
  if (PyErr_Occurred()) {
    PyErr_Clear();
    altmin::raise_type_error("sigma.parameter must be a number, but is of type ", altmin::type_name(real), ".");
  }
  if (!std::isfinite(slope)) altmin::raise_value_error("sigma.parameter must be finite, but is ", slope, ".");
  value = {static_cast<altmin::Activation>(index), slope};
  return true;
}

}  // namespace pybind11::detail
