// Small kernels in their right form, and with one fault each that the emulator must find.
#include <cuda_runtime.h>

#include <cstring>

namespace altmin::cuda {

enum class Fault {
  none,
  no_barrier,
  no_second_barrier,
  no_warp_barrier,
  no_fence,
  no_atomic,
  no_guard,
  past_the_array,
  missing_lane,
  foreign_mask,
  two_lines,
  early_return
};

constexpr unsigned whole_warp = 0xffffffffu;

template <Fault fault>
__device__ __forceinline__ float warp_sum(float value) {
  if (fault == Fault::foreign_mask) return __shfl_down_sync(0xffff0000u, value, 1);
  for (int lanes = 16; lanes > 0; lanes /= 2)
    if (fault != Fault::missing_lane || threadIdx.x % 32 != 7)
      value += __shfl_xor_sync(whole_warp, value, lanes);
  return value;
}

// output[block] = sum of the block's inputs
template <Fault fault>
__global__ void __launch_bounds__(1024) block_sum(const float* input, float* output, unsigned*, int size) {
  __shared__ float sums[32];
  const unsigned thread = threadIdx.x, warps = blockDim.x / warpSize;
  if (fault == Fault::no_barrier) {
    if (thread < 32) sums[thread] = 0;
    __syncthreads();
  }
  const int i = blockIdx.x * blockDim.x + thread;
  float value = warp_sum<fault>(i < size ? input[i] : 0.0f);
  if (thread % 32 == 0) sums[thread / 32] = value;
  if (fault != Fault::no_barrier) __syncthreads();
  if (thread >= 32) return;
  const unsigned from = fault == Fault::past_the_array ? thread + 1 : thread;
  value = warp_sum<Fault::none>(thread < warps || fault == Fault::no_guard ? sums[from] : 0.0f);
  if (thread == 0) output[blockIdx.x] = value;
}

// output[i] = 2 input[i] + input of the next thread in the block, by way of shared memory
template <Fault fault>
__global__ void neighbours(const float* input, float* output, unsigned*, int size) {
  __shared__ float row[256];
  const int thread = threadIdx.x, i = blockIdx.x * blockDim.x + thread;
  const int next = (thread + 1) % static_cast<int>(blockDim.x);
  row[thread] = input[i % size];
  __syncthreads();
  const float value = row[next];
  if (fault != Fault::no_second_barrier) __syncthreads();
  row[thread] = 2 * row[thread];
  output[i] = row[thread] + value;
}

// output[i] = input of the lane beside
template <Fault fault>
__global__ void lanes_beside(const float* input, float* output, unsigned*, int) {
  __shared__ float row[256];
  const int thread = threadIdx.x, i = blockIdx.x * blockDim.x + thread;
  row[thread] = 0;
  __syncwarp();
  row[thread] = input[i];
  if (fault != Fault::no_warp_barrier) __syncwarp();
  output[i] = row[thread ^ 1];
}

// counters[block] = how many inputs are positive
__global__ void count_positive(const float* input, float*, unsigned* counters, int size) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const bool positive = i < size && input[i] > 0;
  const unsigned lanes = __ballot_sync(whole_warp, positive);
  if (__any_sync(whole_warp, positive) != (lanes != 0)) counters[blockIdx.x] = 0;
  if (__all_sync(whole_warp, positive) != (lanes == whole_warp)) counters[blockIdx.x] = 0;
  if (threadIdx.x % 32 == 0) atomicAdd(counters + blockIdx.x, __builtin_popcount(lanes));
}

// output = the transpose of the input, a square matrix of `size` rows, in tiles of 16 x 16
template <Fault fault>
__global__ void transpose(const float* input, float* output, unsigned*, int size) {
  extern __shared__ unsigned char dynamic_shared_memory[];
  float* tile = reinterpret_cast<float*>(dynamic_shared_memory);
  const int x = threadIdx.x % 16, y = threadIdx.x / 16, tiles = (size + 15) / 16;
  const int column = static_cast<int>(blockIdx.x) % tiles * 16, row = static_cast<int>(blockIdx.x) / tiles * 16;
  if (row + y < size && column + x < size) tile[y * 17 + x] = input[(row + y) * size + column + x];
  __syncthreads();
  if (fault == Fault::no_guard || (column + y < size && row + x < size))
    output[(column + y) * size + row + x] = tile[x * 17 + y];
}

// output[0] = sum of the input by the block that comes last; the partial sums lie behind it
template <Fault fault>
__global__ void last_block_sum(const float* input, float* output, unsigned* counters, int size) {
  __shared__ bool last;
  const unsigned thread = threadIdx.x, threads = gridDim.x * blockDim.x,
                 self = blockIdx.x * blockDim.x + thread;
  float partial = 0;
  for (unsigned i = self; i < static_cast<unsigned>(size); i += threads) partial += input[i];
  output[1 + self] = partial;
  if (fault != Fault::no_barrier) __syncthreads();
  if (thread == 0) {
    if (fault != Fault::no_fence) __threadfence();
    const unsigned ticket = fault == Fault::no_atomic ? counters[0]++ : atomicAdd(counters, 1u);
    last = ticket == gridDim.x - 1;
  }
  __syncthreads();
  __threadfence();
  if (!last || thread != 0) return;
  float sum = 0;
  for (unsigned i = 0; i < threads; ++i) sum += output[1 + i];
  output[0] = sum;
  counters[0] = 0;
}

// output = 2 input + output, four at a time
__global__ void saxpy(const float* input, float* output, unsigned*, int size) {
  const int stride = gridDim.x * blockDim.x;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < size / 4; i += stride) {
    const float4 x = reinterpret_cast<const float4*>(input)[i];
    float4& y = reinterpret_cast<float4*>(output)[i];
    y = make_float4(2 * x.x + y.x, 2 * x.y + y.y, 2 * x.z + y.z, 2 * x.w + y.w);
  }
}

// counters[k] = how many inputs lie in [k, k + 1)
template <Fault fault>
__global__ void histogram(const float* input, float*, unsigned* counters, int size) {
  __shared__ unsigned counts[8];
  if (threadIdx.x < 8) counts[threadIdx.x] = 0;
  __syncthreads();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < size) {
    unsigned& count = counts[static_cast<int>(input[i]) % 8];
    if (fault == Fault::no_atomic)
      ++count;
    else
      atomicAdd(&count, 1u);
  }
  __syncthreads();
  if (threadIdx.x < 8) atomicAdd(counters + threadIdx.x, counts[threadIdx.x]);
}

// output[0] = the number of blocks
template <Fault fault>
__global__ void count_blocks(const float*, float* output, unsigned*, int) {
  if (threadIdx.x != 0) return;
  if (fault == Fault::no_atomic)
    output[0] += 1;
  else
    atomicAdd(output, 1.0f);
}

// output = the blocks in the order in which they come
__global__ void order_of_blocks(const float*, float* output, unsigned* counters, int) {
  if (threadIdx.x == 0) output[atomicAdd(counters, 1u)] = static_cast<float>(blockIdx.x);
}

// Half of the threads are elsewhere.
template <Fault fault>
__global__ void divergent(const float*, float*, unsigned*, int) {
  if (threadIdx.x % 2) {
    __syncthreads();
  } else if (fault == Fault::two_lines) {
    __syncthreads();
  } else if (fault == Fault::missing_lane) {
    __syncwarp(whole_warp);
  }
}

__global__ void read_past_the_end(const float* input, float* output, unsigned*, int) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  output[i] = input[i];
}

__global__ void write_past_the_end(const float* input, float* output, unsigned*, int size) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  output[i] = input[i % size];
}

// Reads what other blocks count at the same time.
__global__ void peek(const float*, float* output, unsigned* counters, int) {
  if (threadIdx.x == 0) output[blockIdx.x] = static_cast<float>(counters[0]);
  atomicAdd(counters, 1u);
}

__global__ void overflow(const float*, float* output, unsigned*, int size) {
  output[threadIdx.x] = static_cast<float>(0x7fffffff + size);
}

__global__ void large_static_array(const float*, float* output, unsigned*, int) {
  __shared__ float row[8192];
  for (int i = threadIdx.x; i < 8192; i += blockDim.x) row[i] = 1;
  output[threadIdx.x] = row[threadIdx.x];
}

using KernelFunction = void(const float* input, float* output, unsigned* counters, int size);
constexpr struct {
  const char* name;
  KernelFunction* function;
} kernels[] = {
    {"block_sum", block_sum<Fault::none>},
    {"block_sum without barrier", block_sum<Fault::no_barrier>},
    {"block_sum of an unguarded tail", block_sum<Fault::no_guard>},
    {"block_sum past the array", block_sum<Fault::past_the_array>},
    {"block_sum without a lane", block_sum<Fault::missing_lane>},
    {"block_sum with a foreign mask", block_sum<Fault::foreign_mask>},
    {"neighbours", neighbours<Fault::none>},
    {"neighbours without second barrier", neighbours<Fault::no_second_barrier>},
    {"lanes_beside", lanes_beside<Fault::none>},
    {"lanes_beside without __syncwarp", lanes_beside<Fault::no_warp_barrier>},
    {"count_positive", count_positive},
    {"transpose", transpose<Fault::none>},
    {"transpose without guard", transpose<Fault::no_guard>},
    {"last_block_sum", last_block_sum<Fault::none>},
    {"last_block_sum without barrier", last_block_sum<Fault::no_barrier>},
    {"last_block_sum without fence", last_block_sum<Fault::no_fence>},
    {"last_block_sum without atomic", last_block_sum<Fault::no_atomic>},
    {"saxpy", saxpy},
    {"histogram", histogram<Fault::none>},
    {"histogram without atomic", histogram<Fault::no_atomic>},
    {"count_blocks", count_blocks<Fault::none>},
    {"count_blocks without atomic", count_blocks<Fault::no_atomic>},
    {"order_of_blocks", order_of_blocks},
    {"barrier on two lines", divergent<Fault::two_lines>},
    {"barrier after an early return", divergent<Fault::early_return>},
    {"barrier against a warp operation", divergent<Fault::missing_lane>},
    {"read_past_the_end", read_past_the_end},
    {"write_past_the_end", write_past_the_end},
    {"peek", peek},
    {"overflow", overflow},
    {"large_static_array", large_static_array},
};

KernelFunction* find(const char* name) {
  for (const auto& kernel : kernels)
    if (!std::strcmp(kernel.name, name)) return kernel.function;
  return nullptr;
}

extern "C" cudaError_t run(const char* name, int blocks, int threads, int shared_bytes, const float* input,
                           float* output, unsigned* counters, int size) {
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(blocks);
  config.blockDim = static_cast<unsigned>(threads);
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  return cudaLaunchKernelEx(&config, find(name), input, output, counters, size);
}

extern "C" cudaError_t allow_shared_bytes(const char* name, int bytes) {
  return cudaFuncSetAttribute(find(name), cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

extern "C" cudaError_t run_cooperatively(float* output) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, count_blocks<Fault::none>, nullptr, output, nullptr, 0);
}

// Copies from memory of cudaMalloc, after it was cleared, or not, or given back.
extern "C" cudaError_t copy_from_allocation(float* output, int threads, bool clear, bool give_back) {
  float* memory = nullptr;
  const size_t bytes = static_cast<size_t>(threads) * sizeof(float);
  cudaMalloc(&memory, bytes);
  if (clear) cudaMemset(memory, 0, bytes);
  if (give_back) cudaFree(memory);
  const cudaError_t error = run("write_past_the_end", 1, threads, 0, memory, output, nullptr, threads);
  if (!give_back) cudaFree(memory);
  return error;
}

}  // namespace altmin::cuda
