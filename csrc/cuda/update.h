// What the weight updates share: many tensors in one launch, cut into chunks of which every block takes one. A first
// launch looks whether all numbers would stay finite, and a second one moves all or none of them.
#pragma once

#include <vector>

#include "ops/update.h"
#include "pack.h"
#include "reduction.h"

namespace altmin::cuda {

inline constexpr int update_threads = 256;
inline constexpr int64_t chunk_elements = 2048;
// What a launch takes along in its arguments; more tensors need several launches.
inline constexpr int most_tensors = 32;
// Counters of the workspace behind that of the blocks: what stopped the update, and for every tensor of a launch whether
// an element would overflow.
inline constexpr int stopped = 1, first_overflow = 2;
inline constexpr unsigned by_guard = 1, by_overflow = 2;

template <typename Tensor>
struct Chunks {
  Tensor tensor[most_tensors];
  int64_t end[most_tensors];  // of the tensor's chunks
  int count;
  bool is_first, is_last;  // among the launches that look, or those that move
  bool packs;              // whether every tensor can be read 16 bytes at a time
  const double* guard;
  int64_t guards;
};

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

template <typename Tensor>
__device__ __forceinline__ int tensor_of_block(const Chunks<Tensor>& chunks) {
  int index = 0;
  while (blockIdx.x >= chunks.end[index]) ++index;
  return index;
}

// Whether body(tensor, factors, place, width) holds for all that this thread has of the block's chunk: for `width`
// elements from `place` each time. factors = prepare(tensor).
template <int pack, typename Tensor, typename Prepare, typename Body>
__device__ __forceinline__ bool holds(const Chunks<Tensor>& chunks, int index, const Prepare& prepare,
                                      const Body& body) {
  const Tensor& tensor = chunks.tensor[index];
  const auto& factors = prepare(tensor);
  const int64_t chunk = blockIdx.x - (index > 0 ? chunks.end[index - 1] : int64_t{0});
  const int64_t begin = chunk * chunk_elements, end = min(tensor.size, begin + chunk_elements);
  const int64_t packs = chunks.packs ? (end - begin) / pack : 0;
  bool all = true;
  for (int64_t i = threadIdx.x; i < packs; i += update_threads)
    all = body(tensor, factors, begin + i * pack, std::integral_constant<int, pack>{}) && all;
  for (int64_t i = begin + packs * pack + threadIdx.x; i < end; i += update_threads)
    all = body(tensor, factors, i, std::integral_constant<int, 1>{}) && all;
  return all;
}

// Stops the update if a flag of the guard is up, or stays_finite does not hold everywhere. Then the flags of those
// tensors go up, once all blocks are done: blocks that have not started would take one for a flag of the whole step.
template <int pack, typename Tensor, typename Prepare, typename Body>
__device__ void look_at_chunks(const Chunks<Tensor>& chunks, const Workspace& workspace, const Prepare& prepare,
                               const Body& stays_finite) {
  const int index = tensor_of_block(chunks);
  unsigned* const counters = workspace.counters;
  const bool going = chunks.is_first ? !any_raised(chunks.guard, chunks.guards) : counters[stopped] != by_guard;
  if (going && !holds<pack>(chunks, index, prepare, stays_finite))
    atomicExch(counters + first_overflow + index, 1u);
  if (!last_block(counters, gridDim.x)) return;
  for (int i = threadIdx.x; i < chunks.count; i += update_threads) {
    if (counters[first_overflow + i] == 0) continue;
    counters[first_overflow + i] = 0;
    atomicExch(counters + stopped, by_overflow);
    raise(chunks.tensor[i].guard);
  }
  if (!going && threadIdx.x == 0) counters[stopped] = by_guard;
}

// Unless the update was stopped, has stays_finite write all elements. Where it does not hold there was something before
// that was not finite, and the flag goes up. In the end one thread calls conclude().
template <int pack, typename Tensor, typename Prepare, typename Body, typename Conclude>
__device__ void move_chunks(const Chunks<Tensor>& chunks, const Workspace& workspace, const Prepare& prepare,
                            const Body& stays_finite, const Conclude& conclude) {
  const int index = tensor_of_block(chunks);
  unsigned* const counters = workspace.counters;
  const bool going = counters[stopped] == 0;
  if (going && !holds<pack>(chunks, index, prepare, stays_finite)) raise(chunks.tensor[index].guard);
  if (!chunks.is_last || !last_block(counters, gridDim.x) || threadIdx.x != 0) return;
  counters[stopped] = 0;
  if (going) conclude();
}

// Launches kernel(chunks, workspace, arguments...) over all elements of the update's tensors.
template <typename Update, typename Tensor, typename... Parameters, typename... Arguments>
void launch_chunks(const Update& o, const std::vector<Tensor>& tensors, bool packs, const Workspace& workspace,
                   Stream stream, void (*kernel)(Chunks<Tensor>, Workspace, Parameters...),
                   const Arguments&... arguments) {
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

// First `look` over all of them, and then `move`.
template <typename Update, typename Tensor, typename... Parameters, typename... Arguments>
void launch_update(const Update& o, const std::vector<Tensor>& tensors, bool packs, Stream stream,
                   void (*look)(Chunks<Tensor>, Workspace, Parameters...),
                   void (*move)(Chunks<Tensor>, Workspace, Parameters...), const Arguments&... arguments) {
  const Workspace workspace = Workspace::of(stream, 0);
  launch_chunks(o, tensors, packs, workspace, stream, look, arguments...);
  launch_chunks(o, tensors, packs, workspace, stream, move, arguments...);
}

}  // namespace altmin::cuda
