// The arguments of a call, each of which is listed once:
//
//   Size batch, width;
//   Call call;
//   call.in("code", code, {batch, width});
//   call.in("bias", bias, {width}, optional);
//   call.out("activation", activation, {batch, width}).may_be(code);
//   ALTMIN_RUN(activate, call, Activate<T>{batch, width, code, bias, activation});
//
// As it is listed, a tensor must be there, on the device of those before it, of its dtype, of its shape and contiguous;
// a Size takes the extent of the first tensor that has it. Before the op runs, no output may share memory with
// anything but what it may be, and with that only as a whole. What does not hold is raised in one sentence that names
// the argument, what it must be and what it is.
#pragma once

#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "tensor.h"

namespace altmin {

// What is special about a tensor. Otherwise it must be given and have the op's floating-point type, which is float32
// or float64, whichever the first such tensor has.
enum Traits : unsigned { ordinary = 0, optional = 1, float64 = 2, int64 = 4, uint8 = 8, on_cpu = 16 };
constexpr Traits operator|(Traits a, Traits b) { return static_cast<Traits>(unsigned{a} | unsigned{b}); }

// An extent that several tensors have in common.
struct Size {
  int64_t value = -1;  // unknown as yet
  operator int64_t() const { return value; }
};

class Extent {
 public:
  Extent() = default;
  Extent(Size& size) : size_(&size) {}
  Extent(int64_t value) : value_(value) {}
  bool is_known() const { return !size_ || size_->value >= 0; }
  int64_t value() const { return size_ ? size_->value : value_; }
  bool fits(int64_t extent) const {
    if (!is_known()) size_->value = extent;
    return value() == extent;
  }

 private:
  Size* size_ = nullptr;
  int64_t value_ = 0;
};

class Shape {
 public:
  Shape(std::initializer_list<Extent> extents) : dimensions_(static_cast<int>(extents.size())) {
    std::copy(extents.begin(), extents.end(), extents_);
  }
  // Any, where it is the tensor itself.
  static Shape of(const Tensor& tensor) { return Shape(tensor); }
  bool fits(const Tensor& tensor) const;
  std::string describe() const;

 private:
  explicit Shape(const Tensor& tensor) : like_(&tensor) {}

  Extent extents_[5];
  int dimensions_ = 0;
  const Tensor* like_ = nullptr;
};

// An argument, or an entry of one that is a list.
struct Argument {
  const char* name;
  const Tensor* tensor;
  const TensorList* list = nullptr;
  size_t index = 0;
  bool written = false;
  bool shared = false;
  const void* permitted[2] = {};
  const char *begin = nullptr, *end = nullptr;  // its memory

  // May share its memory with another argument as a whole,
  Argument& may_be(const Tensor& other, bool condition = true) { return permit(condition ? &other : nullptr); }
  // or with an entry of a list that belongs to another index than its own.
  Argument& may_be_in(const TensorList& others) { return permit(&others); }
  // Whoever writes to it at the same time writes other numbers than those that are read.
  Argument& may_be_written() {
    shared = true;
    return *this;
  }
  std::string full_name() const { return list ? name + ("[" + std::to_string(index) + "]") : name; }

 private:
  Argument& permit(const void* other) {
    (permitted[0] ? permitted[1] : permitted[0]) = other;
    return *this;
  }
};

class Call {
 public:
  Call() { arguments_.reserve(14); }

  Argument& in(const char* name, const Tensor& tensor, const Shape& shape, Traits traits = ordinary) {
    return add({name, &tensor}, shape, traits);
  }
  Argument& out(const char* name, const Tensor& tensor, const Shape& shape, Traits traits = ordinary) {
    return add({name, &tensor, nullptr, 0, true}, shape, traits);
  }
  Argument& in_out(const char* name, const Tensor& tensor, const Shape& shape, Traits traits = ordinary) {
    return out(name, tensor, shape, traits);
  }

  // Lists must have an entry for each of the first one's.
  void lists(std::initializer_list<std::pair<const char*, const TensorList&>> lists);
  Argument& in(const char* name, const TensorList& list, size_t i, const Shape& shape,
               Traits traits = ordinary) {
    return add({name, &list[i], &list, i}, shape, traits);
  }
  Argument& out(const char* name, const TensorList& list, size_t i, const Shape& shape,
                Traits traits = ordinary) {
    return add({name, &list[i], &list, i, true}, shape, traits);
  }
  Argument& in_out(const char* name, const TensorList& list, size_t i, const Shape& shape,
                   Traits traits = ordinary) {
    return out(name, list, i, shape, traits);
  }

  // The op's floating-point type is this tensor's, though others are listed before it.
  void takes_dtype_of(const char* name, const Tensor& tensor);

  const std::vector<Argument>& arguments() const { return arguments_; }

  // Where all arguments are, once it is certain that no output shares memory with anything but what it may be.
  dlpack::Device device() const;
  // Calls body with a value of the op's floating-point type; does nothing if no tensor had one.
  template <typename Body>
  auto with_dtype(const Body& body) const {
    if (bits_ == 32) return body(float{});
    if (bits_ == 64) return body(double{});
    return decltype(body(float{}))();
  }

 private:
  Argument& add(const Argument& argument, const Shape& shape, Traits traits);
  void check_dtype(const Argument& argument, Traits traits);
  void check_device(const Argument& argument, Traits traits);
  void check_sharing() const;

  std::vector<Argument> arguments_;
  static constexpr size_t none = static_cast<size_t>(-1);
  size_t first_ = none;  // the index of the first that is given
  int bits_ = 0;         // of the op's floating-point type, once it is known
};

bool is_contiguous(const Tensor& tensor);
// Lazily negated, as the imaginary part of a conjugate is: the memory holds the opposite of what it stands for.
bool is_negated(const Tensor& tensor);
std::string describe_device(const dlpack::Device& device);

// Scalars, for which Python may pass any number of the kind.
int64_t integer(const char* name, py::handle value);
int count(const char* name, py::handle value);  // at least 1
std::pair<int64_t, int64_t> integers(const char* name, py::handle pair);
double positive(const char* name, py::handle value);
bool flag(const char* name, py::handle value);

// Raises for the label at an index, which the kernel found outside [0, classes); none if it is negative.
void check_labels(int64_t wrong, const Tensor& labels, int64_t classes);

}  // namespace altmin
