// What a model holds, to find out in less than a microsecond whether it still does.
#include <pybind11/critical_section.h>

#include <algorithm>

#include "run.h"

namespace altmin {
namespace {

PyObject* interned(const char* name) { return PyUnicode_InternFromString(name); }

// Objects in dicts, the memory of parameters, and values in dicts. All of them must live as long: none is kept alive
// here, where Python's collector of garbage would not see it, since what uses this may hang on one of them.
class Held {
 public:
  Held(const py::list& places, const py::list& parameters, const py::list& attributes) {
    for (const py::handle& place : places) {
      Place& own = places_.emplace_back();
      own.dict = place;
      const py::scoped_critical_section lock(place);
      for (const auto& entry : py::reinterpret_borrow<py::dict>(place)) own.values.push_back(entry.second);
    }
    for (const py::handle& parameter : parameters) {
      Parameter& own = parameters_.emplace_back();
      own.tensor = parameter;
      own.requires_grad = py::object(parameter.attr("requires_grad"));  // True or False, which always live
      const Tensor now = seen(own.tensor);
      if (!now) continue;  // its view has no dimensions, and nothing is like it
      own.is_seen = true;
      own.view = now.view;
      own.shape.assign(now.view.shape, now.view.shape + now.view.dimensions);
      if (now.view.strides) own.strides.assign(now.view.strides, now.view.strides + now.view.dimensions);
    }
    for (const py::handle& attribute : attributes) {
      const auto parts = py::reinterpret_borrow<py::tuple>(attribute);
      attributes_.push_back({PyTuple_GET_ITEM(parts.ptr(), 0), PyTuple_GET_ITEM(parts.ptr(), 1),
                             PyTuple_GET_ITEM(parts.ptr(), 2)});
    }
  }

  bool unchanged() const {
    return std::all_of(places_.begin(), places_.end(), same_objects) &&
           std::all_of(parameters_.begin(), parameters_.end(), same_memory) &&
           std::all_of(attributes_.begin(), attributes_.end(), same_value);
  }

 private:
  struct Place {
    py::handle dict;
    std::vector<py::handle> values;
  };
  struct Parameter {
    py::handle tensor, requires_grad;
    bool is_seen = false;
    dlpack::Tensor view{};
    std::vector<int64_t> shape, strides;
  };
  struct Attribute {
    py::handle dict, name, value;
  };

  static Tensor seen(py::handle object) {
    py::detail::make_caster<Tensor> caster;
    caster.load(object, false);
    return py::detail::cast_op<Tensor>(caster);
  }
  static bool same_objects(const Place& place) {
    const py::scoped_critical_section lock(place.dict);
    PyObject *key = nullptr, *value = nullptr;
    Py_ssize_t position = 0;
    for (const py::handle& expected : place.values)
      if (!PyDict_Next(place.dict.ptr(), &position, &key, &value) || value != expected.ptr()) return false;
    return !PyDict_Next(place.dict.ptr(), &position, &key, &value);
  }
  static bool same_memory(const Parameter& own) {
    static PyObject* const requires_grad = interned("requires_grad");
    const Tensor now = seen(own.tensor);
    if (!now || !own.is_seen) return false;
    const auto same = [&](const std::vector<int64_t>& expected, const int64_t* found) {
      return expected.empty() || (found && std::equal(expected.begin(), expected.end(), found));
    };
    const dlpack::Tensor &a = now.view, &b = own.view;
    if (a.data != b.data || a.byte_offset != b.byte_offset || a.dimensions != b.dimensions ||
        a.device.type != b.device.type || a.device.id != b.device.id || a.dtype.code != b.dtype.code ||
        a.dtype.bits != b.dtype.bits || !same(own.shape, a.shape) || !same(own.strides, a.strides))
      return false;
    const auto trained = py::reinterpret_steal<py::object>(PyObject_GetAttr(own.tensor.ptr(), requires_grad));
    if (!trained) throw py::error_already_set();
    return trained.ptr() == own.requires_grad.ptr();
  }
  static bool same_value(const Attribute& own) {
    const py::scoped_critical_section lock(own.dict);
    const auto now =
        py::reinterpret_borrow<py::object>(PyDict_GetItemWithError(own.dict.ptr(), own.name.ptr()));
    if (now.is(own.value)) return true;
    const int same = now ? PyObject_RichCompareBool(now.ptr(), own.value.ptr(), Py_EQ) : 0;
    if (PyErr_Occurred()) throw py::error_already_set();
    return same == 1;
  }

  std::vector<Place> places_;
  std::vector<Parameter> parameters_;
  std::vector<Attribute> attributes_;
};

const Registration registration_of_held([](py::module_& module) {
  py::class_<Held>(module, "Held", py::module_local())
      .def(py::init<const py::list&, const py::list&, const py::list&>())
      .def("unchanged", &Held::unchanged);
});

}  // namespace
}  // namespace altmin
