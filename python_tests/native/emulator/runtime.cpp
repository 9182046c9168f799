// The runtime's functions, and what Python calls to steer the emulator.
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "machine.h"

using emulator::machine;

namespace {

cudaError_t last_error = cudaSuccess;

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

}  // namespace

cudaError_t cudaMalloc(void** address, size_t bytes) {
  *address = nullptr;
  if (bytes == 0) return cudaSuccess;
  constexpr size_t alignment = 256;
  *address = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (!*address) return remember(cudaErrorMemoryAllocation);
  std::memset(*address, 0xff, bytes);
  emulator::add_region(*address, bytes, "memory of cudaMalloc", false);
  return cudaSuccess;
}

cudaError_t cudaFree(void* address) {
  if (address && !emulator::remove_region(address)) return remember(cudaErrorInvalidValue);
  std::free(address);
  return cudaSuccess;
}

cudaError_t cudaMemset(void* address, int value, size_t bytes) {
  emulator::record_memset(address, bytes);
  if (!machine.error.empty()) return remember(cudaErrorLaunchFailure);
  std::memset(address, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t) {
  return cudaMemset(address, value, bytes);
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : remember(cudaErrorInvalidDevice); }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (attribute != cudaDevAttrMultiProcessorCount) return remember(cudaErrorInvalidValue);
  *value = machine.multiprocessors;
  return cudaSetDevice(device);
}

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }

cudaError_t cudaPeekAtLastError() { return last_error; }

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorLaunchFailure: return "the emulator found a fault";
    default: return "unknown error";
  }
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = reinterpret_cast<cudaStream_t>(std::malloc(1));
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) { return last_error; }

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  std::free(stream);
  return cudaSuccess;
}

struct CUuserObject_st {
  void* data;
  cudaHostFn_t destroy;
};

struct CUgraph_st {
  unsigned long long id;
  std::vector<cudaUserObject_t> objects;
};

namespace {

std::map<cudaStream_t, cudaGraph_t> captures;

}  // namespace

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  static unsigned long long captured = 0;
  captures[stream] = new CUgraph_st{++captured, {}};
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = captures.at(stream);
  captures.erase(stream);
  return cudaSuccess;
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                     unsigned long long* id, cudaGraph_t* graph) {
  const auto found = captures.find(stream);
  const bool active = found != captures.end();
  *status = active ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  if (active && id) *id = found->second->id;
  if (active && graph) *graph = found->second;
  return cudaSuccess;
}

cudaError_t cudaUserObjectCreate(cudaUserObject_t* object, void* data, cudaHostFn_t destroy, unsigned,
                                 unsigned) {
  *object = new CUuserObject_st{data, destroy};
  return cudaSuccess;
}

cudaError_t cudaGraphRetainUserObject(cudaGraph_t graph, cudaUserObject_t object, unsigned, unsigned) {
  graph->objects.push_back(object);
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  for (const cudaUserObject_t object : graph->objects) {
    object->destroy(object->data);
    delete object;
  }
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  static cudaStreamCaptureMode current = cudaStreamCaptureModeGlobal;
  std::swap(*mode, current);
  return cudaSuccess;
}

namespace emulator {

cudaError_t launch(const cudaLaunchConfig_t& config, const Kernel& kernel) {
  return remember(run(config, kernel));
}

}  // namespace emulator

#define EXPORT extern "C" __attribute__((visibility("default")))

// Forgets the tensors, the counters and the error of the call before.
EXPORT void emulator_begin_call() {
  emulator::forget_tensors();
  machine.counters = {};
  machine.error.clear();
  machine.first_block_of_call = machine.next_block;
  last_error = cudaSuccess;
}

EXPORT void emulator_add_tensor(const void* address, size_t bytes, const char* name) {
  emulator::add_region(address, bytes, name, true);
}

// Empty if there is none. "+0x1234" is an offset in the shared object.
EXPORT const char* emulator_error() { return machine.error.c_str(); }

EXPORT void emulator_counters(emulator::Counters* counters) { *counters = machine.counters; }

EXPORT void emulator_seed(uint64_t seed) { machine.random_state = seed; }

EXPORT void emulator_set_multiprocessors(int count) { machine.multiprocessors = count; }

EXPORT void emulator_set_checking(bool checking) { machine.checking = checking && emulator::instrumented; }
