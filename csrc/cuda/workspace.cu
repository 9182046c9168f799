#include <map>
#include <mutex>
#include <utility>

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

Owner owner_of(Stream stream) {
  Owner owner = {0, stream, 0};
  check(cudaGetDevice(&owner.device), "cudaGetDevice");
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  unsigned long long id = 0;
  check(cudaStreamGetCaptureInfo(stream, &status, &id), "cudaStreamGetCaptureInfo");
  if (status == cudaStreamCaptureStatusActive) owner.capture = id;
  return owner;
}

}  // namespace

Workspace Workspace::of(Stream stream, int64_t numbers) {
  static std::mutex mutex;
  static std::map<Owner, Memory> memories;
  const Owner owner = owner_of(stream);
  const std::lock_guard<std::mutex> lock(mutex);
  Memory& memory = memories[owner];
  if (!memory.counters)
    memory.counters = static_cast<unsigned*>(allocate_cleared(counter_count * sizeof(unsigned)));
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
