// The native calls of a training step, recorded with the arguments that they had, and run again by one call, without a
// check, an allocation or the interpreter's lock.
//
// While a recording is the current one of its thread, every op that runs on a CPU is added to it (ALTMIN_RUN). The
// buffers of a step stay where they are, so that the arguments stay right; only a minibatch comes in memory of its own.
// What reads it through a pointer that may be set anew (inputs_of) reads it there; for all else it is copied to where
// it was when it was recorded.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "call.h"
#include "ops/matmul.h"

namespace altmin {

// The pointers of an op's arguments that a recording may set anew, if it has such pointers.
template <typename Arguments>
std::vector<const void**> inputs_of(Arguments&) {
  return {};
}
template <typename T>
std::vector<const void**> inputs_of(MatMul<T>& o) {
  return {reinterpret_cast<const void**>(&o.a), reinterpret_cast<const void**>(&o.b)};
}

class Recording {
 public:
  enum Outcome : int {
    completed,
    flagged,  // a flag was raised at a check; what follows it has not run
    refused,  // an op found a label out of range, or cannot run; what follows it has not run
  };

  // For minibatches like this one. All tensors of the calls are added to `kept`, which must live as long: a list that
  // Python's collector of garbage sees, since what keeps the recording may hang on one of them.
  Recording(const py::object& x, const py::object& y, const py::list& kept);

  // That to which the ops of this thread are added, or null.
  static Recording* current();
  void resume() { current_ = this; }
  static void pause() { current_ = nullptr; }

  template <typename Arguments, typename Op>
  void add(const Call& call, const Arguments& arguments, Op op) {
    auto step = std::make_unique<Recorded<Arguments, Op>>(arguments, op);
    note_inputs(call, inputs_of(step->arguments));
    steps_.push_back(std::move(step));
  }
  // What follows runs only if none of these flags is raised.
  void add_check(const Tensor& flags);
  // That calls from elsewhere read the minibatch where it was.
  void read_elsewhere() { copies_x_ = true; }

  // The mean loss and, or null, the count of correct samples that the calls write.
  void report(const py::object& loss, const py::object& correct);

  // Whether a tensor has memory that the calls can read: some have none, and some begin between two numbers.
  static bool reads(const Tensor& tensor);
  // Whether a minibatch has the types, shapes and layout of the recorded one, so that the calls may read it where it is.
  bool takes(const Tensor& x, const Tensor& y) const;
  // Makes all calls for each of `batches` minibatches, which lie one after the other in x and y, beginning with that of
  // number `first`, until one is not completed; returns how many were, and the outcome of the last. What each reports
  // is copied to the entries of `losses` and `counts` from number `row` on, unless these are null.
  std::pair<int64_t, Outcome> run(const Tensor& x, const Tensor& y, int64_t first, int64_t batches,
                                  const Tensor& losses, const Tensor& counts, int64_t row);
  size_t size() const { return steps_.size(); }

 private:
  struct Step {
    virtual ~Step() = default;
    virtual Outcome run() = 0;
  };
  template <typename Arguments, typename Op>
  struct Recorded final : Step {
    Recorded(const Arguments& given, Op given_op) : arguments(given), op(given_op) {}
    Outcome run() override {
      if constexpr (std::is_void_v<decltype(op(arguments))>) {
        op(arguments);
        return completed;
      } else {
        return op(arguments) < 0 ? completed : refused;
      }
    }
    Arguments arguments;
    Op op;
  };
  struct Check final : Step {
    Check(const double* given, int64_t number) : flags(given), count(number) {}
    Outcome run() override;
    const double* flags;
    int64_t count;
  };
  // A minibatch's memory, where it was recorded and where it may be in a run.
  struct Source {
    char* memory = nullptr;
    size_t bytes = 0;
    dlpack::DataType dtype{};
    std::vector<int64_t> shape;
  };
  struct Input {
    const void** pointer;
    ptrdiff_t offset;
  };

  void keep(py::handle object);
  void note_inputs(const Call& call, const std::vector<const void**>& pointers);
  bool lies_in_x(const void* address) const;
  Outcome run_at(const char* x, const char* y);

  Tensor loss_, correct_;

  static thread_local Recording* current_;
  std::vector<std::unique_ptr<Step>> steps_;
  py::handle kept_;
  std::vector<Input> inputs_;
  Source x_, y_;
  bool copies_x_ = false;
};

}  // namespace altmin
