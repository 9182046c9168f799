// The device: blocks in flight, their threads, and the checks of what these do to memory.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <sstream>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cuda_runtime.h"
#include "fiber.h"

namespace emulator {

#if defined(__SANITIZE_ADDRESS__)
// AddressSanitizer watches instead; the hooks that the checks live on are not compiled in.
inline constexpr bool instrumented = false;
#else
inline constexpr bool instrumented = true;
#endif

inline constexpr unsigned warp_size = 32, max_threads = 1024;
inline constexpr size_t default_shared_bytes = 48 << 10, max_shared_bytes = 227 << 10;
// In pieces of this size the shared memory of a block is put aside while another one runs.
inline constexpr size_t chunk_bytes = 1 << 10;

enum class Access { read, write, atomic };

// Who accessed a granule, and when by the clocks of its block, its warp and itself.
struct Party {
  uint32_t block;       // counted over all launches; 0 is nobody
  uint32_t phase;       // barriers that the block had passed
  uint32_t warp_phase;  // __syncwarp that the lane had passed
  uint32_t place;       // offset of the instruction in the shared object
  uint32_t lanes;       // those of the warp that read at the same time; a writer is alone
  uint16_t fences;      // that the thread had passed
  uint8_t warp;
  uint8_t bytes : 4, atomic : 1;  // bytes: which of the granule's four
};

// The checks' memory of four bytes: their last writer, and who has read since. Three readers suffice: whoever writes
// races with the last one, with one of another warp or with one of another block if there is any reader to race with.
struct Granule {
  Party writer, reader, reader_in_other_warp, reader_in_other_block;
  uint8_t initialised;
};

struct FreeMemory {
  void operator()(void* memory) const { free(memory); }
};
// Zero, and backed by memory only where touched.
using Granules = std::unique_ptr<Granule[], FreeMemory>;
inline Granules make_granules(size_t count) {
  return Granules(static_cast<Granule*>(calloc(count, sizeof(Granule))));
}

// What a block knows, by way of atomics, that other blocks have done.
struct Knowledge {
  std::vector<uint32_t> phases;                 // by block: everything before this phase
  std::unordered_map<uint64_t, uint32_t> own;   // by thread: its own accesses before this fence
  std::unordered_map<uintptr_t, size_t> heard;  // by address: releases already taken in
};

enum class State { ready, at_barrier, in_warp_operation, finished };

struct Thread {
  uint3 index;
  uint16_t number;  // within the block
  State state = State::ready;
  Fiber* fiber = nullptr;
  Party now{};               // what an access of it is recorded as
  uint32_t fence_phase = 0;  // its block's phase at its last fence
  // What it waits for.
  Site site{};
  WarpOperation operation{};
  unsigned mask = 0, source = 0;
  uint64_t value = 0;

  unsigned lane() const { return number % warp_size; }
  unsigned warp() const { return number / warp_size; }
};

struct Block {
  uint3 index;
  uint32_t serial, phase;
  std::vector<Thread> threads;
  std::vector<Thread*> ready;
  unsigned at_barrier, finished;
  Thread* first_at_barrier;
  Knowledge knowledge;

  // Shared memory: the thread-local segment while the block runs, else a copy of the chunks that it has touched.
  Granules granules;
  std::vector<char> copy;
  std::vector<char> touched;
  std::vector<unsigned> touched_chunks;
  size_t static_granules;
};

struct Counters {
  uint64_t launches, bytes_loaded, bytes_stored, unique_bytes_loaded, unique_bytes_stored;
};

// The launch under way.
struct Launch {
  cudaLaunchConfig_t config{};
  Kernel kernel{};
  uint32_t first_block = 1;  // serial number of block 0
  size_t dynamic_bytes = 0;
  char* segment = nullptr;  // the calling thread's thread-local segment
  size_t segment_bytes = 0;
  size_t dynamic_offset = 0;  // of the dynamic array within it
};

struct Machine {
  Launch launch;
  Block* block = nullptr;  // of the running thread
  Thread* thread = nullptr;
  bool checking = instrumented;
  uint32_t next_block = 1;
  uint32_t first_block_of_call = 1;
  int multiprocessors = 3;
  uint64_t random_state = 0;
  uintptr_t code = 0;  // where the shared object was loaded
  std::string error;
  Counters counters{};

  // A number below `count`; the schedule depends on nothing else.
  uint32_t random(uint32_t count);
};
extern Machine machine;

// Keeps the first error of a call; on a thread of the device it does not return.
void fail(const std::string& text);
std::string name(const Block&, unsigned thread);
std::string kernel_name();

cudaError_t run(const cudaLaunchConfig_t&, const Kernel&);
// Called before the running block accesses its shared memory: what an earlier block left there must not show.
void begin_chunk(size_t chunk);
inline void touch_shared_memory(size_t offset, size_t bytes) {
  for (size_t chunk = offset / chunk_bytes; chunk <= (offset + bytes - 1) / chunk_bytes; ++chunk)
    if (!machine.block->touched[chunk]) begin_chunk(chunk);
}

// checks.cpp
void check_access(Access, const void* address, size_t bytes, const void* caller);
void forget_launch();
void pass_fence();
void add_region(const void* address, size_t bytes, const std::string& name, bool tensor);
bool remove_region(const void* address);
// Forgets the tensors of the call, but not what cudaMalloc gave.
void forget_tensors();
// What cudaMalloc gave keeps its content between launches, and must not keep that of an abandoned one.
void save_allocations();
void restore_allocations();
void record_memset(const void* address, size_t bytes);

template <typename... Parts>
std::string sentence(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

}  // namespace emulator
