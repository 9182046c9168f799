#include "machine.h"

#include <link.h>

#include <algorithm>
#include <cstring>

// Their declarations in cuda_runtime.h are const.
uint3 current_thread_index __asm__("threadIdx"), current_block_index __asm__("blockIdx"),
    current_block_dimensions __asm__("blockDim"), current_grid_dimensions __asm__("gridDim");

namespace altmin::cuda {
alignas(128) thread_local unsigned char dynamic_shared_memory[emulator::max_shared_bytes];
}

namespace emulator {

Machine machine;

namespace {

constexpr size_t max_blocks_in_flight = 4;
constexpr uint32_t longest_turn = 256;  // of one block, counted in turns of its threads

std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Fiber*> idle_fibers;
std::vector<std::unique_ptr<Block>> spare_blocks;
std::unordered_map<const void*, size_t> dynamic_bytes_allowed;

void run_thread() {
  machine.launch.kernel.call(machine.launch.kernel.parameters);
  machine.thread->state = State::finished;
  machine.thread->fiber->suspend();
}

Fiber* take_fiber() {
  if (idle_fibers.empty()) {
    fibers.push_back(std::make_unique<Fiber>(run_thread));
    return fibers.back().get();
  }
  Fiber* fiber = idle_fibers.back();
  idle_fibers.pop_back();
  return fiber;
}

int find_segment(dl_phdr_info* object, size_t, void*) {
  Launch& launch = machine.launch;
  const auto own = reinterpret_cast<uintptr_t>(&find_segment);
  bool found = false;
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    const ElfW(Phdr) & header = object->dlpi_phdr[i];
    const uintptr_t begin = object->dlpi_addr + header.p_vaddr;
    found |= header.p_type == PT_LOAD && begin <= own && own < begin + header.p_memsz;
    if (header.p_type == PT_TLS) launch.segment_bytes = header.p_memsz;
  }
  if (!found) return 0;
  machine.code = object->dlpi_addr;
  launch.segment = static_cast<char*>(object->dlpi_tls_data);
  return 1;
}

void find_shared_memory() {
  // Before its first use a thread has no segment.
  volatile unsigned char* dynamic = altmin::cuda::dynamic_shared_memory;
  dynamic[0] = dynamic[0];
  dl_iterate_phdr(&find_segment, nullptr);
  machine.launch.dynamic_offset =
      reinterpret_cast<const char*>(altmin::cuda::dynamic_shared_memory) - machine.launch.segment;
}

void save_shared_memory(Block& block) {
  const Launch& launch = machine.launch;
  for (unsigned chunk : block.touched_chunks) {
    const size_t begin = chunk * chunk_bytes, bytes = std::min(chunk_bytes, launch.segment_bytes - begin);
    memcpy(block.copy.data() + begin, launch.segment + begin, bytes);
  }
}

void restore_shared_memory(const Block& block) {
  const Launch& launch = machine.launch;
  for (unsigned chunk : block.touched_chunks) {
    const size_t begin = chunk * chunk_bytes, bytes = std::min(chunk_bytes, launch.segment_bytes - begin);
    memcpy(launch.segment + begin, block.copy.data() + begin, bytes);
  }
}

void begin_block(Block& block, uint32_t number) {
  const Launch& launch = machine.launch;
  const dim3 grid = launch.config.gridDim, size = launch.config.blockDim;
  block.index = {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
  block.serial = launch.first_block + number;
  block.phase = 1;
  block.at_barrier = block.finished = 0;
  block.knowledge = {};
  block.static_granules = 0;
  const uint16_t count = static_cast<uint16_t>(size.x * size.y * size.z);
  block.threads.assign(count, {});
  block.ready.resize(count);
  for (uint16_t i = 0; i < count; ++i) {
    Thread& thread = block.threads[i];
    thread.number = i;
    thread.index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
    thread.now.block = block.serial;
    thread.now.phase = block.phase;
    thread.now.warp = static_cast<uint8_t>(thread.warp());
    thread.now.lanes = 1u << thread.lane();
    block.ready[i] = &thread;
  }
  if (block.copy.size() != launch.segment_bytes) {
    block.copy.resize(launch.segment_bytes);
    block.granules = make_granules(launch.segment_bytes / 4 + 1);
  }
  block.touched.assign(launch.segment_bytes / chunk_bytes + 1, false);
  block.touched_chunks.clear();
  if (machine.checking) return;
  // No check would tell when the block begins to use its shared memory.
  const size_t end = launch.dynamic_offset + max_shared_bytes;
  memset(launch.segment, 0xff, launch.dynamic_offset + launch.dynamic_bytes);
  memset(launch.segment + end, 0xff, launch.segment_bytes - end);
}

void make_ready(Block& block, Thread& thread) {
  thread.state = State::ready;
  block.ready.push_back(&thread);
}

// The running thread waits until somebody makes it ready.
void wait(State state, const Site& site) {
  machine.thread->state = state;
  machine.thread->site = site;
  machine.thread->fiber->suspend();
}

void run_one_thread(Block& block) {
  const uint32_t choice = machine.random(static_cast<uint32_t>(block.ready.size()));
  std::swap(block.ready[choice], block.ready.back());
  Thread& thread = *block.ready.back();
  block.ready.pop_back();
  if (!thread.fiber) thread.fiber = take_fiber();
  current_thread_index = thread.index;
  current_block_index = block.index;
  machine.thread = &thread;
  thread.fiber->resume();
  machine.thread = nullptr;
  if (thread.state != State::finished) return;
  ++block.finished;
  idle_fibers.push_back(std::exchange(thread.fiber, nullptr));
}

std::string describe(const Site& site) { return sentence("at ", site.file, ":", site.line); }

std::string describe_wait(const Thread& thread) {
  if (thread.state == State::finished) return "has returned";
  if (thread.state == State::at_barrier) return sentence("waits in __syncthreads() ", describe(thread.site));
  return sentence("waits in a warp operation of lanes 0x", std::hex, thread.mask, std::dec, " ",
                  describe(thread.site));
}

bool joins(const Thread& thread, const Thread& other) {
  return thread.state == State::in_warp_operation && thread.mask == other.mask &&
         thread.operation == other.operation && thread.site.line == other.site.line &&
         !strcmp(thread.site.file, other.site.file);
}

void report_stuck(const Block& block) {
  for (const Thread& thread : block.threads) {
    if (thread.state != State::in_warp_operation) continue;
    for (unsigned lane = 0; lane < warp_size; ++lane) {
      const unsigned other = thread.warp() * warp_size + lane;
      if (!(thread.mask >> lane & 1)) continue;
      const bool absent = other >= block.threads.size();
      if (!absent && joins(block.threads[other], thread)) continue;
      return fail(sentence("Warp operation without all its lanes in ", kernel_name(), ": ",
                           name(block, thread.number), " ", describe_wait(thread), ", but lane ", lane, " ",
                           absent ? "is not in the block" : describe_wait(block.threads[other]), "."));
    }
  }
  const auto other = std::find_if(block.threads.begin(), block.threads.end(),
                                  [](const Thread& thread) { return thread.state != State::at_barrier; });
  const Thread& first = *block.first_at_barrier;
  fail(sentence("Divergent barrier in ", kernel_name(), ": ", name(block, first.number), " ",
                describe_wait(first), ", but ", name(block, other->number), " ", describe_wait(*other), "."));
}

std::string refusal(const cudaLaunchConfig_t& config, const Kernel& kernel) {
  const auto product = [](dim3 size) { return uint64_t{size.x} * size.y * size.z; };
  const dim3 grid = config.gridDim, block = config.blockDim;
  if (product(grid) == 0 || product(block) == 0) return "a dimension of its grid or block is 0";
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) return "its grid is larger than CUDA allows";
  if (product(block) > max_threads || block.z > 64)
    return sentence("its blocks have ", product(block), " threads");
  for (unsigned i = 0; i < config.numAttrs; ++i)
    if (config.attrs[i].id != cudaLaunchAttributeIgnore)
      return sentence("its launch attribute ", config.attrs[i].id, " is not emulated");
  const auto allowed = dynamic_bytes_allowed.find(kernel.function);
  const size_t limit = allowed == dynamic_bytes_allowed.end() ? default_shared_bytes : allowed->second;
  if (config.dynamicSmemBytes > limit)
    return sentence("it takes ", config.dynamicSmemBytes, " bytes of dynamic shared memory and may take ",
                    limit);
  return "";
}

// A kernel's static arrays are known only by their use.
void check_shared_memory_limit(const Block& block) {
  const Launch& launch = machine.launch;
  const size_t used = 4 * block.static_granules;
  const size_t limit =
      dynamic_bytes_allowed.count(launch.kernel.function) ? max_shared_bytes : default_shared_bytes;
  if (used > default_shared_bytes || used + launch.dynamic_bytes > limit)
    fail(sentence("Too much shared memory in ", kernel_name(), ": ", used, " bytes of static arrays and ",
                  launch.dynamic_bytes, " dynamic ones exceed the limit of ",
                  used > default_shared_bytes ? default_shared_bytes : limit, "."));
}

void run_grid() {
  const dim3 grid = machine.launch.config.gridDim;
  std::vector<uint32_t> waiting(size_t{grid.x} * grid.y * grid.z);
  for (uint32_t i = 0; i < waiting.size(); ++i) waiting[i] = i;
  std::vector<std::unique_ptr<Block>> in_flight;
  const size_t max_in_flight = machine.checking ? max_blocks_in_flight : 1;

  machine.block = nullptr;
  while (machine.error.empty()) {
    while (in_flight.size() < max_in_flight && !waiting.empty()) {
      std::swap(waiting[machine.random(static_cast<uint32_t>(waiting.size()))], waiting.back());
      if (spare_blocks.empty()) spare_blocks.push_back(std::make_unique<Block>());
      in_flight.push_back(std::move(spare_blocks.back()));
      spare_blocks.pop_back();
      begin_block(*in_flight.back(), waiting.back());
      waiting.pop_back();
    }
    if (in_flight.empty()) break;
    const uint32_t choice = machine.random(static_cast<uint32_t>(in_flight.size()));
    Block& block = *in_flight[choice];
    if (&block != machine.block) {
      if (machine.block) save_shared_memory(*machine.block);
      restore_shared_memory(block);
      machine.block = &block;
    }
    // Copying shared memory costs more than switching threads, so a block runs on for a while.
    for (uint32_t turns = 1 + machine.random(longest_turn); turns && !block.ready.empty(); --turns) {
      run_one_thread(block);
      if (!machine.error.empty()) break;
    }
    if (!machine.error.empty() || !block.ready.empty()) continue;
    if (block.finished < block.threads.size()) {
      report_stuck(block);
      continue;
    }
    check_shared_memory_limit(block);
    machine.block = nullptr;
    spare_blocks.push_back(std::move(in_flight[choice]));
    in_flight.erase(in_flight.begin() + choice);
  }
  machine.block = nullptr;
  for (std::unique_ptr<Block>& block : in_flight) {
    for (Thread& thread : block->threads)
      if (thread.fiber) {
        thread.fiber->restart();
        idle_fibers.push_back(thread.fiber);
      }
    spare_blocks.push_back(std::move(block));
  }
}

}  // namespace

uint32_t Machine::random(uint32_t count) {
  // SplitMix64
  uint64_t bits = random_state += 0x9e3779b97f4a7c15;
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111eb;
  return static_cast<uint32_t>(((bits ^ (bits >> 31)) >> 32) * count >> 32);
}

std::string kernel_name() {
  const auto address = reinterpret_cast<uintptr_t>(machine.launch.kernel.function);
  return sentence("kernel +0x", std::hex, address - machine.code);
}

namespace {

std::string coordinates(uint3 index, dim3 size) {
  if (size.y == 1 && size.z == 1) return std::to_string(index.x);
  return sentence("(", index.x, ", ", index.y, ", ", index.z, ")");
}

}  // namespace

std::string name(const Block& block, unsigned thread) {
  const cudaLaunchConfig_t& config = machine.launch.config;
  return sentence("thread ", coordinates(block.threads[thread].index, config.blockDim), " of block ",
                  coordinates(block.index, config.gridDim));
}

void fail(const std::string& text) {
  if (machine.error.empty()) machine.error = text;
  if (machine.thread) machine.thread->fiber->suspend();
}

unsigned lane() { return machine.thread->lane(); }

void fence() { pass_fence(); }

uint64_t begin_atomic(const void* address, size_t bytes) {
  if (machine.random(16) == 0) {
    make_ready(*machine.block, *machine.thread);
    machine.thread->fiber->suspend();
  }
  check_access(Access::atomic, address, bytes, __builtin_return_address(0));
  uint64_t value = 0;
  memcpy(&value, address, bytes);
  return value;
}

void end_atomic(void* address, size_t bytes, uint64_t value) { memcpy(address, &value, bytes); }

void synchronize_block(const Site& site) {
  Block& block = *machine.block;
  Thread& thread = *machine.thread;
  if (!block.at_barrier) block.first_at_barrier = &thread;
  const Thread& first = *block.first_at_barrier;
  if (block.at_barrier && (first.site.line != site.line || strcmp(first.site.file, site.file)))
    fail(sentence("Divergent barrier in ", kernel_name(), ": ", name(block, thread.number),
                  " is in __syncthreads() ", describe(site), ", but ", name(block, first.number), " ",
                  describe_wait(first), "."));
  if (++block.at_barrier < block.threads.size()) return wait(State::at_barrier, site);
  block.at_barrier = 0;
  ++block.phase;
  for (Thread& other : block.threads) {
    other.now.phase = block.phase;
    if (&other != &thread) make_ready(block, other);
  }
}

uint64_t exchange(WarpOperation operation, unsigned mask, uint64_t value, unsigned source, const Site& site) {
  Block& block = *machine.block;
  Thread& self = *machine.thread;
  self.operation = operation;
  self.mask = mask;
  self.value = value;
  self.source = source;
  self.site = site;
  self.state = State::in_warp_operation;
  if (!(mask >> self.lane() & 1))
    fail(sentence("Warp operation without all its lanes in ", kernel_name(), ": ", name(block, self.number),
                  " ", describe_wait(self), ", but is lane ", self.lane(), " itself."));
  const unsigned first = self.warp() * warp_size;
  for (unsigned lanes = mask; lanes; lanes &= lanes - 1) {
    const unsigned other = first + static_cast<unsigned>(__builtin_ctz(lanes));
    if (other >= block.threads.size() || !joins(block.threads[other], self)) {
      self.fiber->suspend();
      return self.value;
    }
  }

  uint64_t values[warp_size] = {}, ballot = 0;
  uint32_t warp_phase = 0;
  for (unsigned lanes = mask; lanes; lanes &= lanes - 1) {
    const int i = __builtin_ctz(lanes);
    const Thread& other = block.threads[first + i];
    values[i] = other.value;
    ballot |= uint64_t{other.value != 0} << i;
    warp_phase = std::max(warp_phase, other.now.warp_phase + 1);
  }
  for (unsigned lanes = mask; lanes; lanes &= lanes - 1) {
    Thread& other = block.threads[first + static_cast<unsigned>(__builtin_ctz(lanes))];
    if (operation == WarpOperation::synchronize) other.now.warp_phase = warp_phase;
    if (operation == WarpOperation::ballot) other.value = ballot;
    if (operation == WarpOperation::shuffle) {
      if (!(mask >> other.source & 1))
        fail(sentence("Warp operation without all its lanes in ", kernel_name(), ": ",
                      name(block, other.number), " ", describe_wait(other), ", but reads from lane ",
                      other.source, "."));
      other.value = values[other.source];
    }
    if (&other != &self) make_ready(block, other);
  }
  self.state = State::ready;
  return self.value;
}

cudaError_t allow_dynamic_shared_memory(const void* function, int bytes) {
  if (bytes < 0 || static_cast<size_t>(bytes) > max_shared_bytes) return cudaErrorInvalidValue;
  dynamic_bytes_allowed[function] = static_cast<size_t>(bytes);
  return cudaSuccess;
}

cudaError_t run(const cudaLaunchConfig_t& config, const Kernel& kernel) {
  if (!machine.error.empty()) return cudaErrorLaunchFailure;
  Launch& launch = machine.launch;
  launch.config = config;
  launch.kernel = kernel;
  launch.dynamic_bytes = config.dynamicSmemBytes;
  find_shared_memory();
  const std::string reason = refusal(config, kernel);
  if (!reason.empty()) {
    fail(sentence("Refused to launch ", kernel_name(), ": ", reason, "."));
    return cudaErrorInvalidConfiguration;
  }
  ++machine.counters.launches;
  launch.first_block = machine.next_block;
  machine.next_block += config.gridDim.x * config.gridDim.y * config.gridDim.z;
  current_block_dimensions = {config.blockDim.x, config.blockDim.y, config.blockDim.z};
  current_grid_dimensions = {config.gridDim.x, config.gridDim.y, config.gridDim.z};
  forget_launch();
  save_allocations();
  run_grid();
  if (machine.error.empty()) return cudaSuccess;
  restore_allocations();
  return cudaErrorLaunchFailure;
}

void begin_chunk(size_t chunk) {
  Block& block = *machine.block;
  block.touched[chunk] = true;
  block.touched_chunks.push_back(static_cast<unsigned>(chunk));
  const size_t begin = chunk * chunk_bytes;
  memset(machine.launch.segment + begin, 0xff, std::min(chunk_bytes, machine.launch.segment_bytes - begin));
}

}  // namespace emulator
