#include "call.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>

namespace altmin {
namespace {

struct Type {
  uint8_t code, bits;
  const char* name;
};

// The one that a tensor must have; `bits` are those of the op's floating-point type.
Type expected_type(Traits traits, int bits) {
  if (traits & int64) return {dlpack::integer_code, 64, "int64"};
  if (traits & uint8) return {dlpack::unsigned_code, 8, "uint8"};
  if (traits & float64 || bits == 64) return {dlpack::float_code, 64, "float64"};
  return {dlpack::float_code, 32, "float32"};
}

std::string describe(const dlpack::DataType& type) {
  const auto with_bits = [&](const char* kind) { return kind + std::to_string(type.bits); };
  switch (type.code) {
    case dlpack::float_code: return with_bits("float");
    case dlpack::bfloat_code: return with_bits("bfloat");
    case dlpack::integer_code: return with_bits("int");
    case dlpack::unsigned_code: return with_bits("uint");
    case dlpack::complex_code: return with_bits("complex");
    case dlpack::bool_code: return "bool";
    default: return "of DLPack's type " + std::to_string(type.code);
  }
}

std::string describe_shape(const Tensor& tensor) {
  std::string text = "(";
  for (int i = 0; i < tensor.view.dimensions; ++i) text += (i ? ", " : "") + std::to_string(tensor.shape(i));
  return text + (tensor.view.dimensions == 1 ? ",)" : ")");
}

// The lowest page is never mapped: there lie views of storages without memory.
constexpr uintptr_t lowest_address = 65536;

bool is_permitted(const Argument& a, const Argument& b) {
  for (const void* other : a.permitted)
    if (other && (other == b.tensor || (other == b.list && a.index != b.index))) return true;
  return false;
}

[[noreturn]] void raise_without_memory(const Argument& argument) {
  raise_value_error(argument.full_name(), " must have memory that a kernel can read, but is a ",
                    type_name(argument.tensor->object),
                    " without any, as within a transform of torch.func; pass a plain torch.Tensor.");
}

void check_presence(const Argument& argument, Traits traits) {
  const Tensor& tensor = *argument.tensor;
  if (tensor || (!tensor.object && traits & optional)) return;
  if (!tensor.object) raise_type_error(argument.full_name(), " must be a torch.Tensor, but is None.");
  if (!exchange_api(tensor.object))
    raise_type_error(argument.full_name(), " must be a torch.Tensor, but is of type ", type_name(tensor.object),
                     ".");
  const std::string device = py::str(tensor.object.attr("device")),
                    layout = py::str(tensor.object.attr("layout"));
  if (layout == "torch.strided" && device != "meta") raise_without_memory(argument);
  raise_value_error(argument.full_name(), " must be a dense tensor on the CPU or a GPU, but is on device ",
                    device, " with layout ", layout, ".");
}

[[noreturn]] void raise_sharing(const Argument& a, const Argument& b) {
  if (is_permitted(a, b))
    raise_value_error(a.full_name(), " must be ", b.full_name(), " itself or share no memory with it.");
  if (is_permitted(b, a)) raise_sharing(b, a);
  if (b.written && !a.written) raise_sharing(b, a);
  raise_value_error(a.full_name(), " and ", b.full_name(), " must not share memory.");
}

}  // namespace

bool is_contiguous(const Tensor& tensor) {
  const dlpack::Tensor& view = tensor.view;
  if (!view.strides) return true;
  int64_t expected = 1;
  if (tensor.size() == 0) return true;
  for (int i = view.dimensions - 1; i >= 0; --i) {
    if (view.shape[i] != 1 && view.strides[i] != expected) return false;
    expected *= view.shape[i];
  }
  return true;
}

// Such a part is contiguous only if it is a single number.
bool is_negated(const Tensor& tensor) {
  return tensor.size() == 1 && tensor.view.dtype.code == dlpack::float_code &&
         tensor.object.attr("is_neg")().cast<bool>();
}

std::string describe_device(const dlpack::Device& device) {
  if (device.type == dlpack::cpu_device) return "the CPU";
  if (device.type == dlpack::cuda_device) return "cuda:" + std::to_string(device.id);
  return "a device of DLPack's type " + std::to_string(device.type);
}

bool Shape::fits(const Tensor& tensor) const {
  const dlpack::Tensor& view = tensor.view;
  if (like_)
    return view.dimensions == like_->view.dimensions &&
           std::equal(view.shape, view.shape + view.dimensions, like_->view.shape);
  if (view.dimensions != dimensions_) return false;
  bool fit = true;
  for (int i = 0; i < dimensions_; ++i) fit &= extents_[i].fits(view.shape[i]);
  return fit;
}

std::string Shape::describe() const {
  if (like_) return "shape " + describe_shape(*like_);
  std::string text;
  for (int i = 0; i < dimensions_; ++i) {
    if (!extents_[i].is_known())
      return std::to_string(dimensions_) + (dimensions_ == 1 ? " dimension" : " dimensions");
    text += (text.empty() ? "" : ", ") + std::to_string(extents_[i].value());
  }
  return "shape (" + text + (dimensions_ == 1 ? ",)" : ")");
}

void Call::lists(std::initializer_list<std::pair<const char*, const TensorList&>> lists) {
  const auto& [first_name, first] = *lists.begin();
  for (const auto& [name, list] : lists) {
    if (!list.items)
      raise_type_error(name, " must be a list of tensors, but is of type ", type_name(list.object), ".");
    if (list.size() != first.size())
      raise_value_error(name, " must have one entry for each of the ", first.size(), " ", first_name,
                        ", but has ", list.size(), ".");
  }
  arguments_.reserve(lists.size() * (first.size() + 1));
}

void Call::takes_dtype_of(const char* name, const Tensor& tensor) {
  const Argument argument{name, &tensor};
  check_presence(argument, ordinary);
  check_dtype(argument, ordinary);
}

Argument& Call::add(const Argument& given, const Shape& shape, Traits traits) {
  Argument& argument = arguments_.emplace_back(given);
  check_presence(argument, traits);
  const Tensor& tensor = *argument.tensor;
  if (!tensor) return argument;
  check_dtype(argument, traits);
  if (!shape.fits(tensor))
    raise_value_error(argument.full_name(), " must have ", shape.describe(), ", but has shape ",
                      describe_shape(tensor), ".");
  if (!is_contiguous(tensor))
    raise_value_error(argument.full_name(), " must be contiguous; pass ", argument.full_name(),
                      ".contiguous().");
  const int64_t element = tensor.view.dtype.bits / 8, bytes = tensor.size() * element;
  argument.begin = tensor.data<char>();
  argument.end = argument.begin + bytes;
  const auto address = reinterpret_cast<uintptr_t>(argument.begin);
  if (bytes > 0 && address < lowest_address) raise_without_memory(argument);
  if (bytes > 0 && address % static_cast<uintptr_t>(element) != 0)
    raise_value_error(argument.full_name(), " must begin at a multiple of its ", element,
                      " bytes per number, but begins at address ", address, "; pass ", argument.full_name(),
                      ".clone().");
  if (!(traits & (float64 | int64 | uint8)) && is_negated(tensor))
    raise_value_error(argument.full_name(), " must not be lazily negated; pass ", argument.full_name(),
                      ".resolve_neg().");
  check_device(argument, traits);
  return argument;
}

void Call::check_dtype(const Argument& argument, Traits traits) {
  const dlpack::DataType& type = argument.tensor->view.dtype;
  if (!(traits & (float64 | int64 | uint8)) && bits_ == 0) {
    if (type.code != dlpack::float_code || (type.bits != 32 && type.bits != 64))
      raise_type_error(argument.full_name(), " must be float32 or float64, but is ", describe(type), ".");
    bits_ = type.bits;
  }
  const Type expected = expected_type(traits, bits_);
  if (type.code != expected.code || type.bits != expected.bits || type.lanes != 1)
    raise_type_error(argument.full_name(), " must be ", expected.name, ", but is ", describe(type), ".");
}

void Call::check_device(const Argument& argument, Traits traits) {
  const dlpack::Device& device = argument.tensor->view.device;
  if (traits & on_cpu) {
    if (device.type != dlpack::cpu_device)
      raise_value_error(argument.full_name(), " must be on the CPU, where it is read, but is on ",
                        describe_device(device), ".");
    return;
  }
  if (first_ == none) first_ = arguments_.size() - 1;
  const Argument& first = arguments_[first_];
  const dlpack::Device& expected = first.tensor->view.device;
  if (device.type != expected.type || device.id != expected.id)
    raise_value_error(argument.full_name(), " must be on ", describe_device(expected), " like ",
                      first.full_name(), ", but is on ", describe_device(device), ".");
}

void Call::check_sharing() const {
  static thread_local std::vector<const Argument*> sorted;
  sorted.clear();
  for (const Argument& argument : arguments_)
    if (argument.begin != argument.end) sorted.push_back(&argument);
  std::sort(sorted.begin(), sorted.end(),
            [](const Argument* a, const Argument* b) { return a->begin < b->begin; });
  for (auto a = sorted.begin(); a != sorted.end(); ++a)
    for (auto b = a + 1; b != sorted.end() && (*b)->begin < (*a)->end; ++b) {
      if (!(*a)->written && !(*b)->written) continue;
      const bool same = (*a)->begin == (*b)->begin && (*a)->end == (*b)->end;
      if (!same || !(is_permitted(**a, **b) || is_permitted(**b, **a))) raise_sharing(**a, **b);
    }
}

dlpack::Device Call::device() const {
  check_sharing();
  return first_ == none ? dlpack::Device{dlpack::cpu_device, 0} : arguments_[first_].tensor->view.device;
}

int64_t integer(const char* name, py::handle value) {
  const auto index =
      py::reinterpret_steal<py::object>(PyBool_Check(value.ptr()) ? nullptr : PyNumber_Index(value.ptr()));
  if (!index) {
    PyErr_Clear();
    raise_type_error(name, " must be an integer, but is of type ", type_name(value), ".");
  }
  int overflow = 0;
  const long long result = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  if (!overflow) return result;
  const auto digits = py::reinterpret_steal<py::object>(PyObject_Str(index.ptr()));
  PyErr_Clear();  // Python writes no number of more than some thousand digits
  raise_value_error(name, " must fit into 64 bits, but ",
                    digits ? "is " + std::string(py::str(digits)) : "has thousands of digits", ".");
}

int count(const char* name, py::handle value) {
  constexpr int most = std::numeric_limits<int>::max();
  const int64_t result = integer(name, value);
  if (result < 1) raise_value_error(name, " must be at least 1, but is ", result, ".");
  if (result > most) raise_value_error(name, " must be at most ", most, ", but is ", result, ".");
  return static_cast<int>(result);
}

std::pair<int64_t, int64_t> integers(const char* name, py::handle pair) {
  if (!PyTuple_Check(pair.ptr()) || PyTuple_GET_SIZE(pair.ptr()) != 2)
    raise_type_error(name, " must be a tuple of two integers, but is ", std::string(py::repr(pair)), ".");
  return {integer(name, PyTuple_GET_ITEM(pair.ptr(), 0)), integer(name, PyTuple_GET_ITEM(pair.ptr(), 1))};
}

double positive(const char* name, py::handle value) {
  double result = PyBool_Check(value.ptr()) ? -1.0 : PyFloat_AsDouble(value.ptr());
  const bool too_large = PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_OverflowError);
  if (PyBool_Check(value.ptr()) || (PyErr_Occurred() && !too_large)) {
    PyErr_Clear();
    raise_type_error(name, " must be a number, but is of type ", type_name(value), ".");
  }
  if (too_large) {
    PyErr_Clear();
    result = std::numeric_limits<double>::infinity();
  }
  if (!(std::isnormal(result) && result > 0))
    raise_value_error(name, " must be positive and finite, but is ", result, ".");
  return result;
}

bool flag(const char* name, py::handle value) {
  if (value.ptr() == Py_True) return true;
  if (value.ptr() == Py_False) return false;
  // NumPy's, whose name has changed.
  const std::string_view type = type_name(value);
  if (type == "numpy.bool" || type == "numpy.bool_") return PyObject_IsTrue(value.ptr()) == 1;
  raise_type_error(name, " must be True or False, but is of type ", type_name(value), ".");
}

void check_labels(int64_t wrong, const Tensor& labels, int64_t classes) {
  if (wrong >= 0)
    raise_value_error("labels must lie in [0, ", classes, "), but labels[", wrong, "] is ",
                      labels.data<int64_t>()[wrong], ".");
}

}  // namespace altmin
