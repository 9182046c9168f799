// The native calls of a training step, recorded with the arguments that they had, and run again by one call, without a
// check, an allocation or the interpreter's lock.
//
// While a recording is the current one of its thread, every op that runs on a CPU is added to it (ALTMIN_RUN). The
// buffers of a step stay where they are, so that the arguments stay right; only a minibatch comes in memory of its own.
// What reads it through a pointer that may be set anew (inputs_of) reads it there; for all else it is copied to where
// it was when it was recorded.
//
// What the weights of the stages are moved by does not depend on the other stages: the calls in front of an update of
// the weights fall into branches that share no memory that is written. Where that is faster, branches run side by side
// on threads of their own, instead of every call on several threads. No bit depends on it.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "call.h"
#include "cpu/blas.h"
#include "ops/adam_update.h"
#include "ops/matmul.h"
#include "ops/sgd_update.h"
#include "ops/softmax_residual.h"
#include "ops/weight_residual.h"

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

// What a call may be to the branches: none, so that they end before it; a part of one; what joins them.
enum class Branching { ends, part, joins };

template <typename Arguments>
Branching branching_of(const Arguments&) {
  return Branching::ends;
}
template <typename T>
Branching branching_of(const WeightResidual<T>&) {
  return Branching::part;
}
template <typename T>
Branching branching_of(const SoftmaxResidual<T>&) {
  return Branching::part;
}
template <typename T>
Branching branching_of(const MatMul<T>&) {
  return cpu::may_use_blas() ? Branching::ends : Branching::part;  // whose bits may depend on its threads
}
template <typename T>
Branching branching_of(const AdamUpdate<T>&) {
  return Branching::joins;
}
template <typename T>
Branching branching_of(const SgdUpdate<T>&) {
  return Branching::joins;
}

// About how many passes over a number a call makes.
template <typename Arguments>
int64_t work_of(const Arguments&, int64_t numbers) {
  return numbers;
}
template <typename T>
int64_t work_of(const MatMul<T>& o, int64_t) {
  return o.m * o.n * o.k / 16;
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
    step->branching = branching_of(arguments);
    step->ranges = ranges_of(call);
    step->work = work_of(arguments, numbers_in(step->ranges));
    steps_.push_back(std::move(step));
  }
  // What follows runs only if none of these flags is raised.
  void add_check(const Tensor& flags);

  // Ends it. The mean loss and, or null, the count of correct samples are what the calls write.
  void finish(const py::object& loss, const py::object& correct);

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
  // Memory that a call reads or writes.
  struct Range {
    const char *begin, *end;
    bool written;
  };
  struct Step {
    virtual ~Step() = default;
    virtual Outcome run() = 0;
    bool conflicts_with(const Step& other) const;

    Branching branching = Branching::ends;
    std::vector<Range> ranges;
    int64_t work = 0;
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
  using Steps = std::vector<std::unique_ptr<Step>>;
  // Steps that run side by side, those of each branch one after the other.
  struct Branches final : Step {
    Outcome run() override;
    std::vector<Steps> each;
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
  static std::vector<Range> ranges_of(const Call& call);
  static int64_t numbers_in(const std::vector<Range>& ranges);
  size_t branch_before(size_t join);
  bool lies_in_x(const void* address) const;
  Outcome run_at(const char* x, const char* y);

  Tensor loss_, correct_;

  static thread_local Recording* current_;
  Steps steps_;
  py::handle kept_;
  std::vector<Input> inputs_;
  Source x_, y_;
  bool copies_x_ = false;
};

}  // namespace altmin
