#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "launch.h"

namespace altmin::cuda {

namespace {

// Allocates and clears on a stream of its own: the caller's may be under capture, which allows neither.
void* allocate_cleared(size_t bytes) {
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  check(cudaThreadExchangeStreamCaptureMode(&mode), "cudaThreadExchangeStreamCaptureMode");
  void* memory = nullptr;
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  check(cudaMalloc(&memory, bytes), "cudaMalloc");
  check(cudaMemsetAsync(memory, 0, bytes, stream), "cudaMemsetAsync");
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  check(cudaStreamDestroy(stream), "cudaStreamDestroy");
  check(cudaThreadExchangeStreamCaptureMode(&mode), "cudaThreadExchangeStreamCaptureMode");
  return memory;
}

struct Owner {
  int device;
  Stream stream;
  unsigned long long capture;  // 0 outside a capture

  bool operator<(const Owner& other) const {
    if (device != other.device) return device < other.device;
    if (capture != other.capture) return capture < other.capture;
    return capture == 0 && stream < other.stream;
  }
};

struct Memory {
  unsigned* counters = nullptr;
  double* numbers = nullptr;
  int64_t capacity = 0;
};

// Whose launches those on the stream are; `graph` is what they are captured into, or null.
Owner owner_of(Stream stream, cudaGraph_t& graph) {
  Owner owner = {0, stream, 0};
  check(cudaGetDevice(&owner.device), "cudaGetDevice");
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  unsigned long long id = 0;
  graph = nullptr;
  check(cudaStreamGetCaptureInfo(stream, &status, &id, &graph), "cudaStreamGetCaptureInfo");
  if (status == cudaStreamCaptureStatusActive)
    owner.capture = id;
  else
    graph = nullptr;
  return owner;
}

// Graphs that are no more, whose memory others may have. CUDA says so from a thread of its own, which may neither call
// CUDA nor wait for who does: hence a lock that is never held for longer than this.
class Gone {
 public:
  static void add(void* owner) {
    const std::lock_guard<std::mutex> lock(mutex());
    owners().push_back(*static_cast<Owner*>(owner));
    delete static_cast<Owner*>(owner);
  }
  static std::vector<Owner> take() {
    const std::lock_guard<std::mutex> lock(mutex());
    return std::exchange(owners(), {});
  }

 private:
  // Never destroyed: a graph may outlive what is static.
  static std::mutex& mutex() {
    static std::mutex& one = *new std::mutex;
    return one;
  }
  static std::vector<Owner>& owners() {
    static std::vector<Owner>& all = *new std::vector<Owner>;
    return all;
  }
};

// Has a graph tell once it is gone, and with it all that was made from it. Without that its memory is only kept.
void follow(cudaGraph_t graph, const Owner& owner) {
  auto* const own = new Owner(owner);
  cudaUserObject_t object = nullptr;
  if (cudaUserObjectCreate(&object, own, Gone::add, 1, cudaUserObjectNoDestructorSync) != cudaSuccess)
    delete own;
  else if (cudaGraphRetainUserObject(graph, object, 1, cudaGraphUserObjectMove) == cudaSuccess)
    return;
  cudaGetLastError();
}

}  // namespace

Workspace Workspace::of(Stream stream, int64_t numbers) {
  static std::mutex mutex;
  static std::map<Owner, Memory> memories;
  static std::map<int, std::vector<Memory>> spare;  // of every device
  cudaGraph_t graph = nullptr;
  const Owner owner = owner_of(stream, graph);
  const std::lock_guard<std::mutex> lock(mutex);
  for (const Owner& gone : Gone::take()) {
    spare[gone.device].push_back(memories[gone]);
    memories.erase(gone);
  }
  Memory& memory = memories[owner];
  if (!memory.counters) {
    std::vector<Memory>& left = spare[owner.device];
    if (left.empty()) {
      memory.counters = static_cast<unsigned*>(allocate_cleared(counter_count * sizeof(unsigned)));
    } else {
      memory = left.back();
      left.pop_back();
    }
    if (graph) follow(graph, owner);
  }
  if (memory.capacity < numbers) {
    // The smaller piece stays: a launch that is under way, or recorded in a graph, may use it.
    const int64_t capacity = std::max<int64_t>(numbers, 1 << 16);
    memory.numbers = static_cast<double*>(allocate_cleared(static_cast<size_t>(capacity) * sizeof(double)));
    memory.capacity = capacity;
  }
  return {memory.counters, memory.numbers};
}

int multiprocessors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  return count;
}

}  // namespace altmin::cuda
