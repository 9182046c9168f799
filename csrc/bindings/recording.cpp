#include "recording.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <numeric>

#include "run.h"

namespace altmin {

thread_local Recording* Recording::current_ = nullptr;

namespace {

size_t bytes_of(const Tensor& tensor) {
  return static_cast<size_t>(tensor.size()) * tensor.view.dtype.bits / 8;
}

Tensor seen(const py::object& object, const char* name) {
  py::detail::make_caster<Tensor> caster;
  caster.load(object, false);
  const Tensor tensor = py::detail::cast_op<Tensor>(caster);
  if (!tensor) raise_type_error(name, " must be a torch.Tensor, but is of type ", type_name(object), ".");
  return tensor;
}

}  // namespace

Recording::Recording(const py::object& x, const py::object& y, const py::list& kept) : kept_(kept) {
  keep(x);
  keep(y);
  const auto source = [](const Tensor& tensor) {
    return Source{tensor.data<char>(), bytes_of(tensor), tensor.view.dtype,
                  std::vector<int64_t>(tensor.view.shape, tensor.view.shape + tensor.view.dimensions)};
  };
  x_ = source(seen(x, "x"));
  y_ = source(seen(y, "y"));
}

void Recording::keep(py::handle object) { py::reinterpret_borrow<py::list>(kept_).append(object); }

Recording* Recording::current() { return current_; }

bool Recording::lies_in_x(const void* address) const {
  const auto* at = static_cast<const char*>(address);
  return at >= x_.memory && at < x_.memory + x_.bytes;
}

void Recording::note_inputs(const Call& call, const std::vector<const void**>& pointers) {
  std::vector<const void*> set_anew;
  for (const void** pointer : pointers) {
    if (!lies_in_x(*pointer)) continue;
    inputs_.push_back({pointer, static_cast<const char*>(*pointer) - x_.memory});
    set_anew.push_back(*pointer);
  }
  for (const Argument& argument : call.arguments()) {
    if (argument.tensor->object) keep(argument.tensor->object);
    const bool overlaps = argument.begin < x_.memory + x_.bytes && argument.end > x_.memory;
    if (overlaps && std::find(set_anew.begin(), set_anew.end(), argument.begin) == set_anew.end())
      copies_x_ = true;
  }
}

void Recording::add_check(const Tensor& flags) {
  Size count;
  Call call;
  call.in("flags", flags, {count}, float64);
  call.device();
  keep(flags.object);
  steps_.push_back(std::make_unique<Check>(flags.data<double>(), count));
}

Recording::Outcome Recording::Check::run() {
  for (int64_t i = 0; i < count; ++i)
    if (flags[i] != 0) return flagged;
  return completed;
}

bool Recording::reads(const Tensor& tensor) {
  return tensor && reinterpret_cast<uintptr_t>(tensor.data<char>()) % (tensor.view.dtype.bits / 8) == 0;
}

bool Recording::takes(const Tensor& x, const Tensor& y) const {
  const auto fits = [](const Tensor& tensor, const Source& source) {
    const dlpack::Tensor& view = tensor.view;
    return reads(tensor) && view.device.type == dlpack::cpu_device && view.dtype.code == source.dtype.code &&
           view.dtype.bits == source.dtype.bits && view.dimensions == static_cast<int>(source.shape.size()) &&
           std::equal(source.shape.begin(), source.shape.end(), view.shape) && is_contiguous(tensor) &&
           !is_negated(tensor);
  };
  return fits(x, x_) && fits(y, y_);
}

Recording::Outcome Recording::run_at(const char* x, const char* y) {
  const char* source = x;
  if (copies_x_) {
    std::memcpy(x_.memory, x, x_.bytes);
    source = x_.memory;
  }
  for (const Input& input : inputs_) *input.pointer = source + input.offset;
  std::memcpy(y_.memory, y, y_.bytes);
  for (const auto& step : steps_)
    if (const Outcome outcome = step->run(); outcome != completed) return outcome;
  return completed;
}

void Recording::finish(const py::object& loss, const py::object& correct) {
  keep(loss);
  keep(correct);
  loss_ = seen(loss, "loss");
  if (!correct.is_none()) correct_ = seen(correct, "correct");
  for (size_t i = steps_.size(); i-- > 0;)
    if (steps_[i]->branching == Branching::joins) i = branch_before(i);
}

std::vector<Recording::Range> Recording::ranges_of(const Call& call) {
  std::vector<Range> ranges;
  for (const Argument& argument : call.arguments())
    if (argument.begin != argument.end && !argument.shared)
      ranges.push_back({argument.begin, argument.end, argument.written});
  return ranges;
}

int64_t Recording::numbers_in(const std::vector<Range>& ranges) {
  const int64_t bytes = std::accumulate(ranges.begin(), ranges.end(), int64_t{0},
                                        [](int64_t sum, const Range& r) { return sum + (r.end - r.begin); });
  return bytes / static_cast<int64_t>(sizeof(float));
}

bool Recording::Step::conflicts_with(const Step& other) const {
  for (const Range& a : ranges)
    for (const Range& b : other.ranges)
      if ((a.written || b.written) && a.begin < b.end && b.begin < a.end) return true;
  return false;
}

namespace {

// How long branches take on some threads, each of which takes the longest one that is left.
int64_t longest(std::vector<int64_t> branches, int threads) {
  std::sort(branches.rbegin(), branches.rend());
  std::vector<int64_t> of(static_cast<size_t>(threads));
  for (const int64_t branch : branches) *std::min_element(of.begin(), of.end()) += branch;
  return *std::max_element(of.begin(), of.end());
}

constexpr int64_t waking = 8192;  // of threads takes as long as so much work
// A branch of less work is done sooner where it is than its numbers have come to another core.
constexpr int64_t least_branch = 131072;

// How long a call takes on as many threads as pay, which are woken for it.
int64_t on_threads(int64_t work, int threads) {
  constexpr int64_t per_thread = 16384;
  const int64_t used = std::clamp<int64_t>(work / per_thread, 1, threads);
  return work / used + (used > 1 ? waking : 0);
}

}  // namespace

// Of the calls in front of a join, lets the last ones that gain most by it run in branches; returns the number of the first.
size_t Recording::branch_before(size_t join) {
  const int threads = omp_get_max_threads();
  std::vector<size_t> branch(join), best;  // of each call, by the number of one of its calls
  int64_t apart = 0, gain = 0;
  size_t begin = join;
  for (size_t first = join; threads > 1 && first-- > 0 && steps_[first]->branching == Branching::part;) {
    branch[first] = first;
    for (size_t i = first + 1; i < join; ++i)
      if (branch[i] != first && steps_[first]->conflicts_with(*steps_[i])) {
        const size_t joined = branch[i];
        std::replace(branch.begin() + static_cast<ptrdiff_t>(first), branch.end(), joined, first);
      }
    apart += on_threads(steps_[first]->work, threads);
    std::vector<int64_t> work(join);
    for (size_t i = first; i < join; ++i) work[branch[i]] += steps_[i]->work;
    const int64_t side_by_side = longest(work, threads) + waking;
    const int64_t all = std::accumulate(work.begin(), work.end(), int64_t{0});
    const int64_t branches = std::count_if(work.begin(), work.end(), [](int64_t own) { return own > 0; });
    if (apart - side_by_side > gain && all >= branches * least_branch) {
      gain = apart - side_by_side;
      begin = first;
      best = branch;
    }
  }
  if (begin == join) return join;
  auto made = std::make_unique<Branches>();
  std::vector<size_t> numbers;
  for (size_t i = begin; i < join; ++i) {
    auto found = std::find(numbers.begin(), numbers.end(), best[i]);
    if (found == numbers.end()) {
      found = numbers.insert(numbers.end(), best[i]);
      made->each.emplace_back();
    }
    made->each[static_cast<size_t>(found - numbers.begin())].push_back(std::move(steps_[i]));
  }
  const auto at = [&](size_t i) { return steps_.begin() + static_cast<ptrdiff_t>(i); };
  steps_.erase(at(begin), at(join));
  steps_.insert(at(begin), std::move(made));
  return begin;
}

Recording::Outcome Recording::Branches::run() {
  Outcome outcome = completed;
  std::exception_ptr error;
  const auto count = static_cast<int>(each.size());
  // If the backend of products has changed since, one after the other: the bits of a BLAS may depend on its threads.
#pragma omp parallel for schedule(dynamic, 1) if (!cpu::may_use_blas())
  for (int i = 0; i < count; ++i) {
    try {
      for (const auto& step : each[static_cast<size_t>(i)]) {
        const Outcome own = step->run();
        if (own == completed) continue;
#pragma omp critical
        outcome = own;
        break;
      }
    } catch (...) {  // which cannot leave a parallel region
#pragma omp critical
      error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
  return outcome;
}

namespace {

// Copies a number to an entry of a tensor of its type.
void copy_entry(const Tensor& number, const Tensor& to, int64_t entry) {
  if (!number || !to) return;
  const size_t bytes = number.view.dtype.bits / 8;
  std::memcpy(to.data<char>() + static_cast<size_t>(entry) * bytes, number.data<char>(), bytes);
}

}  // namespace

std::pair<int64_t, Recording::Outcome> Recording::run(const Tensor& x, const Tensor& y, int64_t first,
                                                      int64_t batches, const Tensor& losses,
                                                      const Tensor& counts, int64_t row) {
  if (!reads(x) || !reads(y)) return {0, refused};
  follow_torch_threads();
  const py::gil_scoped_release release;
  for (int64_t i = 0; i < batches; ++i) {
    const auto number = static_cast<size_t>(first + i);
    Outcome outcome = refused;
    try {
      outcome = run_at(x.data<char>() + number * x_.bytes, y.data<char>() + number * y_.bytes);
    } catch (...) {  // for lack of memory, say: what has been completed counts, and the next run says why
      if (i == 0) throw;
    }
    if (outcome != refused) {
      copy_entry(loss_, losses, row + i);
      copy_entry(correct_, counts, row + i);
    }
    if (outcome != completed) return {i, outcome};
  }
  return {batches, completed};
}

namespace {

const Registration registration_of_recording([](py::module_& module) {
  py::class_<Recording> recording(module, "Recording", py::module_local());
  recording.attr("completed") = int{Recording::completed};
  recording.attr("flagged") = int{Recording::flagged};
  recording.attr("refused") = int{Recording::refused};
  recording.def(py::init<const py::object&, const py::object&, const py::list&>())
      .def("resume", &Recording::resume)
      .def_static("pause", &Recording::pause)
      .def("add_check", &Recording::add_check)
      .def_static("reads", &Recording::reads)
      .def("takes", &Recording::takes)
      .def("finish", &Recording::finish)
      .def("run",
           [](Recording& self, const Tensor& x, const Tensor& y, int64_t first, int64_t batches,
              const Tensor& losses, const Tensor& counts, int64_t row) {
             const auto [done, outcome] = self.run(x, y, first, batches, losses, counts, row);
             return std::make_pair(done, int{outcome});
           })
      .def("__len__", &Recording::size);
});

}  // namespace
}  // namespace altmin
