// Graphs that are captured and destroyed, and the memory that their launches are given.
#include <algorithm>
#include <deque>
#include <set>

#include "cuda/launch.h"

namespace {

struct Captured {
  cudaGraph_t graph;
  altmin::cuda::Workspace workspace;
};

Captured capture(cudaStream_t stream, int64_t numbers) {
  Captured one = {};
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  one.workspace = altmin::cuda::Workspace::of(stream, 1);
  one.workspace = altmin::cuda::Workspace::of(stream, numbers);
  cudaStreamEndCapture(stream, &one.graph);
  return one;
}

}  // namespace

// Captures so many graphs, each destroyed when `alive` more have been captured; how many pieces of memory they were
// given in all, or -1 if two that were alive at once shared one.
extern "C" int64_t pieces_of_graphs(int64_t graphs, int64_t alive, int64_t numbers) {
  cudaStream_t stream = nullptr;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  std::set<const void*> pieces;
  std::deque<Captured> living;
  int64_t result = 0;
  for (int64_t i = 0; i < graphs; ++i) {
    const Captured next = capture(stream, numbers);
    const auto shares = [&](const Captured& other) {
      return other.workspace.counters == next.workspace.counters ||
             other.workspace.numbers == next.workspace.numbers;
    };
    if (std::any_of(living.begin(), living.end(), shares)) result = -1;
    pieces.insert(next.workspace.counters);
    living.push_back(next);
    if (static_cast<int64_t>(living.size()) == alive) {
      cudaGraphDestroy(living.front().graph);
      living.pop_front();
    }
  }
  for (const Captured& one : living) cudaGraphDestroy(one.graph);
  cudaStreamDestroy(stream);
  return result < 0 ? result : static_cast<int64_t>(pieces.size());
}
