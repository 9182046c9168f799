// The part of CUDA that the kernels use, for g++; README.md says what stands behind it.
//
// Whatever CUDA offers beyond it is undefined here, so that a kernel which needs more fails to compile instead of
// running on assumptions.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include <tuple>
#include <type_traits>
#include <utility>

#define CUDART_VERSION 13000

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
// The thread-local segment of the shared object is the shared memory of the block that runs.
#define __shared__ thread_local

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

// Constants to a thread. Being const and without a constructor, they are read without the compiler's
// instrumentation.
extern const uint3 threadIdx, blockIdx, blockDim, gridDim;
inline constexpr int warpSize = 32;

template <typename T, typename = std::enable_if_t<std::is_arithmetic_v<T>>>
constexpr T min(T a, T b) {
  return b < a ? b : a;
}
template <typename T, typename = std::enable_if_t<std::is_arithmetic_v<T>>>
constexpr T max(T a, T b) {
  return a < b ? b : a;
}

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorLaunchFailure = 719,
  cudaErrorNotSupported = 801
};
using cudaStream_t = struct CUstream_st*;

enum cudaLaunchAttributeID {
  cudaLaunchAttributeIgnore = 0,
  cudaLaunchAttributeCooperative = 2,
  cudaLaunchAttributeClusterDimension = 4,
  cudaLaunchAttributeProgrammaticStreamSerialization = 6
};
union cudaLaunchAttributeValue {
  int cooperative, programmaticStreamSerializationAllowed;
  uint3 clusterDim;
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  cudaLaunchAttributeValue val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

namespace emulator {

// Where in the source something is called: as a default argument, the place of the caller.
struct Site {
  const char* file;
  int line;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

void synchronize_block(const Site&);
void fence();

enum class WarpOperation { synchronize, shuffle, ballot };
// Returns when every lane of the mask has come: the value of the lane `source`, or for a ballot the lanes whose
// value is not 0.
uint64_t exchange(WarpOperation, unsigned mask, uint64_t value, unsigned source, const Site&);
unsigned lane();

// Lets other threads run, then checks the access and returns what is there; nobody runs until the end.
uint64_t begin_atomic(const void* address, size_t bytes);
void end_atomic(void* address, size_t bytes, uint64_t value);

struct Kernel {
  const void* function;
  const void* parameters;
  size_t parameter_bytes;
  void (*call)(const void* parameters);
};
cudaError_t launch(const cudaLaunchConfig_t&, const Kernel&);
cudaError_t allow_dynamic_shared_memory(const void* function, int bytes);

template <typename T>
using if_shuffled = std::enable_if_t<
    std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8) && !std::is_same_v<T, wchar_t>, T>;

template <typename T>
__forceinline__ uint64_t to_bits(T value) {
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof value);
  return bits;
}
template <typename T>
__forceinline__ T from_bits(uint64_t bits) {
  T value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

template <typename T>
if_shuffled<T> shuffle(unsigned mask, T value, unsigned source, int width, const Site& site) {
  // A source outside the lane's group of `width` is the lane itself.
  const unsigned self = lane(), group = static_cast<unsigned>(width);
  if (source / group != self / group) source = self;
  return from_bits<T>(exchange(WarpOperation::shuffle, mask, to_bits(value), source, site));
}

// Inlined like all that calls it, so that the place of the access is the kernel's.
template <typename T, typename Operation>
__forceinline__ T atomic(T* address, const Operation& operation) {
  const T before = from_bits<T>(begin_atomic(address, sizeof(T)));
  end_atomic(address, sizeof(T), to_bits(operation(before)));
  return before;
}

}  // namespace emulator

inline void __syncthreads(emulator::Site site = emulator::Site::here()) { emulator::synchronize_block(site); }
inline void __threadfence() { emulator::fence(); }

inline void __syncwarp(unsigned mask = ~0u, emulator::Site site = emulator::Site::here()) {
  emulator::exchange(emulator::WarpOperation::synchronize, mask, 0, 0, site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, emulator::Site site = emulator::Site::here()) {
  return static_cast<unsigned>(
      emulator::exchange(emulator::WarpOperation::ballot, mask, predicate != 0, 0, site));
}
inline int __any_sync(unsigned mask, int predicate, emulator::Site site = emulator::Site::here()) {
  return __ballot_sync(mask, predicate, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, emulator::Site site = emulator::Site::here()) {
  return __ballot_sync(mask, predicate, site) == mask;
}
template <typename T>
emulator::if_shuffled<T> __shfl_sync(unsigned mask, T value, int source, int width = warpSize,
                                     emulator::Site site = emulator::Site::here()) {
  const unsigned group = static_cast<unsigned>(width);
  return emulator::shuffle(
      mask, value, emulator::lane() / group * group + static_cast<unsigned>(source) % group, width, site);
}
template <typename T>
emulator::if_shuffled<T> __shfl_xor_sync(unsigned mask, T value, int lanes, int width = warpSize,
                                         emulator::Site site = emulator::Site::here()) {
  return emulator::shuffle(mask, value, emulator::lane() ^ static_cast<unsigned>(lanes), width, site);
}
template <typename T>
emulator::if_shuffled<T> __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = warpSize,
                                          emulator::Site site = emulator::Site::here()) {
  return emulator::shuffle(mask, value, emulator::lane() + lanes, width, site);
}
template <typename T>
emulator::if_shuffled<T> __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = warpSize,
                                        emulator::Site site = emulator::Site::here()) {
  return emulator::shuffle(mask, value, emulator::lane() - lanes, width, site);
}

__forceinline__ int atomicAdd(int* address, int value) {
  // Wraps around, as on the device.
  const auto add = [value](int before) {
    return static_cast<int>(static_cast<unsigned>(before) + static_cast<unsigned>(value));
  };
  return emulator::atomic(address, add);
}
__forceinline__ unsigned atomicAdd(unsigned* address, unsigned value) {
  return emulator::atomic(address, [value](unsigned before) { return before + value; });
}
__forceinline__ unsigned long long atomicAdd(unsigned long long* address, unsigned long long value) {
  return emulator::atomic(address, [value](unsigned long long before) { return before + value; });
}
__forceinline__ float atomicAdd(float* address, float value) {
  return emulator::atomic(address, [value](float before) { return before + value; });
}
__forceinline__ double atomicAdd(double* address, double value) {
  return emulator::atomic(address, [value](double before) { return before + value; });
}

#define EMULATOR_ATOMICS(T)                                                                 \
  __forceinline__ T atomicExch(T* address, T value) {                                       \
    return emulator::atomic(address, [value](T) { return value; });                         \
  }                                                                                         \
  __forceinline__ T atomicMax(T* address, T value) {                                        \
    return emulator::atomic(address, [value](T old) { return value > old ? value : old; }); \
  }                                                                                         \
  __forceinline__ T atomicOr(T* address, T value) {                                         \
    return emulator::atomic(address, [value](T old) { return old | value; });               \
  }
EMULATOR_ATOMICS(int)
EMULATOR_ATOMICS(unsigned)
EMULATOR_ATOMICS(unsigned long long)
#undef EMULATOR_ATOMICS

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  static_assert((sizeof(Parameters) + ... + 0) <= 4096, "a kernel takes at most 4 KiB of parameters");
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> parameters;
  };
  const Call call{kernel, std::tuple<Parameters...>(std::forward<Arguments>(arguments)...)};
  const auto body = [](const void* address) {
    const Call& call = *static_cast<const Call*>(address);
    std::apply(call.kernel, call.parameters);
  };
  return emulator::launch(*config, {reinterpret_cast<const void*>(kernel), &call, sizeof call, body});
}

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
template <typename... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute, int value) {
  return emulator::allow_dynamic_shared_memory(reinterpret_cast<const void*>(kernel), value);
}

enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone = 0, cudaStreamCaptureStatusActive = 1 };
enum cudaStreamCaptureMode {
  cudaStreamCaptureModeGlobal,
  cudaStreamCaptureModeThreadLocal,
  cudaStreamCaptureModeRelaxed
};
inline constexpr unsigned cudaStreamDefault = 0, cudaStreamNonBlocking = 1;

cudaError_t cudaMalloc(void** address, size_t bytes);
template <typename T>
cudaError_t cudaMalloc(T** address, size_t bytes) {
  return cudaMalloc(reinterpret_cast<void**>(address), bytes);
}
cudaError_t cudaFree(void* address);
cudaError_t cudaMemset(void* address, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t stream = nullptr);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamDestroy(cudaStream_t stream);

// Captures: launches run at once, and a graph is nothing but what is told when it goes.
using cudaGraph_t = struct CUgraph_st*;
using cudaUserObject_t = struct CUuserObject_st*;
using cudaHostFn_t = void (*)(void*);
inline constexpr unsigned cudaUserObjectNoDestructorSync = 1, cudaGraphUserObjectMove = 1;
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                     unsigned long long* id = nullptr, cudaGraph_t* graph = nullptr);
cudaError_t cudaUserObjectCreate(cudaUserObject_t* object, void* data, cudaHostFn_t destroy,
                                 unsigned references, unsigned flags);
cudaError_t cudaGraphRetainUserObject(cudaGraph_t graph, cudaUserObject_t object, unsigned count,
                                      unsigned flags);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode);
