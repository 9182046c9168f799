// What the weight updates share: many tensors in one launch, cut into chunks of which every block takes one.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "pack.h"
#include "reduction.h"

namespace altmin::cuda {

inline constexpr int update_threads = 256;
inline constexpr int64_t chunk_elements = 2048;
// What a launch takes along in its arguments; more tensors need several launches.
inline constexpr int most_tensors = 32;
// Counters of the workspace behind that of the blocks: whether the update was stopped, and for every tensor of a
// launch whether it refused an element.
inline constexpr int stopped = 1, first_refusal = 2;

template <typename Tensor>
struct Chunks {
  Tensor tensor[most_tensors];
  int64_t end[most_tensors];  // of the tensor's chunks
  int count;
  bool is_first, is_last;  // among the launches of one update
  bool packs;              // whether every tensor can be read 16 bytes at a time
  const double* guard;
  int64_t guards;
};

template <typename T>
__device__ __forceinline__ bool is_finite(T value) {
  return fabs(value) <= std::numeric_limits<T>::max();
}

// Whether a flag of the whole step is up; all threads get the answer.
__device__ __forceinline__ bool any_raised(const double* guard, int64_t guards) {
  __shared__ bool raised;
  if (threadIdx.x < warp_size) {
    bool own = false;
    for (int64_t i = threadIdx.x; i < guards; i += warp_size) own = own || guard[i] != 0;
    own = __any_sync(whole_warp, own);
    if (threadIdx.x == 0) raised = own;
  }
  __syncthreads();
  return raised;
}

// body(tensor, factors, place, width) updates `width` elements from `place` and returns whether it took all of them;
// factors = prepare(tensor). Refusals reach the guard, and one thread calls conclude(), only when all blocks are done:
// a flag or a step count that moved earlier would be seen by blocks that have not started.
template <int pack, typename Tensor, typename Prepare, typename Body, typename Conclude>
__device__ void update_chunks(const Chunks<Tensor>& chunks, const Workspace& workspace, const Prepare& prepare,
                              const Body& body, const Conclude& conclude) {
  int index = 0;
  while (blockIdx.x >= chunks.end[index]) ++index;
  const Tensor& tensor = chunks.tensor[index];
  unsigned* const counters = workspace.counters;
  const bool going = chunks.is_first ? !any_raised(chunks.guard, chunks.guards) : counters[stopped] == 0;
  if (going) {
    const auto factors = prepare(tensor);
    const int64_t chunk = blockIdx.x - (index > 0 ? chunks.end[index - 1] : int64_t{0});
    const int64_t begin = chunk * chunk_elements, end = min(tensor.size, begin + chunk_elements);
    const int64_t packs = chunks.packs ? (end - begin) / pack : 0;
    bool taken = true;
    for (int64_t i = threadIdx.x; i < packs; i += update_threads)
      taken = body(tensor, factors, begin + i * pack, std::integral_constant<int, pack>{}) && taken;
    for (int64_t i = begin + packs * pack + threadIdx.x; i < end; i += update_threads)
      taken = body(tensor, factors, i, std::integral_constant<int, 1>{}) && taken;
    if (!taken) atomicExch(counters + first_refusal + index, 1u);
  }
  if (!last_block(counters, gridDim.x)) return;
  for (int i = threadIdx.x; i < chunks.count; i += update_threads) {
    if (counters[first_refusal + i] == 0) continue;
    counters[first_refusal + i] = 0;
    raise(chunks.tensor[i].guard);
  }
  if (threadIdx.x != 0) return;
  counters[stopped] = going || chunks.is_last ? 0 : 1;
  if (going && chunks.is_last) conclude();
}

// Launches kernel(chunks, workspace, arguments...) over all elements of the update's tensors.
template <typename Update, typename Tensor, typename... Parameters, typename... Arguments>
void launch_update(const Update& o, const std::vector<Tensor>& tensors, bool packs, Stream stream,
                   void (*kernel)(Chunks<Tensor>, Workspace, Parameters...), const Arguments&... arguments) {
  const Workspace workspace = Workspace::of(stream, 0);
  const int64_t total = static_cast<int64_t>(tensors.size());
  for (int64_t first = 0; first < total; first += most_tensors) {
    Chunks<Tensor> chunks = {};
    chunks.count = static_cast<int>(std::min<int64_t>(most_tensors, total - first));
    chunks.is_first = first == 0;
    chunks.is_last = first + chunks.count == total;
    chunks.packs = packs;
    chunks.guard = o.guard;
    chunks.guards = o.guards;
    int64_t blocks = 0;
    for (int i = 0; i < chunks.count; ++i) {
      chunks.tensor[i] = tensors[first + i];
      // At least one, so that an update of empty tensors counts as a step, too.
      chunks.end[i] = blocks += std::max<int64_t>(1, ceil_divide(tensors[first + i].size, chunk_elements));
    }
    launch(kernel, static_cast<unsigned>(blocks), update_threads, stream, chunks, workspace, arguments...);
  }
}

}  // namespace altmin::cuda
