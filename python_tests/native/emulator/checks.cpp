// What threads may access, what they may read, and who races with whom.
//
// Accesses are ordered within a block by __syncthreads, within a warp also by __syncwarp, and between blocks only by
// release and acquire: an atomic of a thread that has passed a __threadfence releases what its block did before the
// barrier ahead of the fence and what the thread itself did before the fence; a later atomic on the same address
// acquires that for its whole block.
#include <link.h>

#include <algorithm>
#include <cstring>

#include "machine.h"

namespace emulator {
namespace {

struct Region {
  uintptr_t begin, end;
  std::string name;
  bool tensor;
  Granules granules;
  std::vector<char> saved;

  Granule& granule(uintptr_t address) const { return granules[address / 4 - begin / 4]; }
  void allocate() {
    if (!granules) granules = make_granules((end + 3) / 4 - begin / 4);
  }
};
// By begin; they do not overlap.
std::vector<Region> regions;

struct Release {
  uint32_t block, phase, fences;
  uint16_t thread;
};
std::unordered_map<uintptr_t, std::vector<Release>> releases;

// The last region that begins at or before the address.
Region* region_before(uintptr_t address) {
  static size_t last = 0;
  if (last < regions.size() && regions[last].begin <= address && address < regions[last].end)
    return &regions[last];
  const auto after =
      std::upper_bound(regions.begin(), regions.end(), address,
                       [](uintptr_t address, const Region& region) { return address < region.begin; });
  if (after == regions.begin()) return nullptr;
  last = static_cast<size_t>(after - regions.begin()) - 1;
  return &regions[last];
}

uint64_t thread_key(uint32_t block, unsigned thread) { return uint64_t{block} * max_threads + thread; }

bool ordered(const Party& earlier) {
  const Party& now = machine.thread->now;
  if (earlier.block < machine.launch.first_block) return true;
  if (earlier.block == now.block)
    return earlier.phase < now.phase ||
           (earlier.warp == now.warp && (earlier.warp_phase < now.warp_phase || earlier.lanes == now.lanes));
  const Block& block = *machine.block;
  const std::vector<uint32_t>& phases = block.knowledge.phases;
  if (!phases.empty() && phases[earlier.block - machine.launch.first_block] > earlier.phase) return true;
  for (unsigned lanes = earlier.lanes; lanes; lanes &= lanes - 1) {
    const unsigned thread = earlier.warp * warp_size + static_cast<unsigned>(__builtin_ctz(lanes));
    const auto fences = block.knowledge.own.find(thread_key(earlier.block, thread));
    if (fences == block.knowledge.own.end() || fences->second <= earlier.fences) return false;
  }
  return true;
}

const char* verb(Access access) {
  return access == Access::read ? "reads" : access == Access::write ? "writes" : "atomically changes";
}

// 0 where threads that are remembered together read at several places.
std::string describe_place(uint32_t place) { return place ? sentence(" at +0x", std::hex, place) : ""; }

[[gnu::noinline]] void report(const char* fault, Access access, size_t bytes, const std::string& what,
                              uint32_t place, const std::string& why) {
  fail(sentence(fault, " in ", kernel_name(), ": ", name(*machine.block, machine.thread->number), " ",
                verb(access), " ", bytes, " bytes of ", what, describe_place(place), why, "."));
}

[[gnu::noinline]] void report_race(const Party& earlier, const char* did, Access access, size_t bytes,
                                   const std::string& what, uint32_t place) {
  const Block& block = *machine.block;
  const bool inside = earlier.block == block.serial;
  unsigned lanes = earlier.lanes;
  if (inside && earlier.warp == machine.thread->warp()) lanes &= ~(1u << machine.thread->lane());
  const unsigned thread = earlier.warp * warp_size + static_cast<unsigned>(__builtin_ctz(lanes));
  if (inside)
    return report("Race within a block", access, bytes, what, place,
                  sentence(", which ", name(block, thread), " ", did, describe_place(earlier.place),
                           " with no barrier in between"));
  Block other;
  const dim3 grid = machine.launch.config.gridDim;
  const uint32_t number = earlier.block - machine.launch.first_block;
  other.index = {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
  other.threads = block.threads;
  report("Race between blocks", access, bytes, what, place,
         sentence(", which ", name(other, thread), " ", did, describe_place(earlier.place),
                  " with no fence and atomic in between"));
}

void acquire_and_release(uintptr_t address) {
  const Launch& launch = machine.launch;
  Thread& self = *machine.thread;
  Knowledge& knowledge = machine.block->knowledge;
  auto found = releases.find(address);
  if (found != releases.end()) {
    if (knowledge.phases.empty()) knowledge.phases.resize(machine.next_block - launch.first_block);
    size_t& heard = knowledge.heard[address];
    for (; heard < found->second.size(); ++heard) {
      const Release& release = found->second[heard];
      uint32_t& phase = knowledge.phases[release.block - launch.first_block];
      phase = std::max(phase, release.phase);
      uint32_t& fences = knowledge.own[thread_key(release.block, release.thread)];
      fences = std::max(fences, release.fences);
    }
  }
  if (self.now.fences)
    releases[address].push_back({machine.block->serial, self.fence_phase, self.now.fences, self.number});
}

void set(Party& party, const Party& now, uint32_t place, unsigned bytes, bool atomic) {
  party = now;
  party.place = place;
  party.bytes = bytes & 15;
  party.atomic = atomic;
}

void remember_reader(Granule& granule, const Party& now, uint32_t place, unsigned bytes) {
  Party& last = granule.reader;
  const bool together = last.warp == now.warp && last.block == now.block && last.phase == now.phase &&
                        last.warp_phase == now.warp_phase;
  if (together && last.bytes) {
    last.lanes |= now.lanes;
    last.bytes |= bytes & 15;
    last.fences = now.fences;
    if (last.place != place) last.place = 0;
    return;
  }
  if (last.block != now.block)
    granule.reader_in_other_block = last;
  else if (last.warp != now.warp)
    granule.reader_in_other_warp = last;
  set(last, now, place, bytes, false);
}

// The parts of the module that the loader leaves read-only.
int find_constant(dl_phdr_info* object, size_t, void* argument) {
  if (object->dlpi_addr != machine.code) return 0;
  const uintptr_t address = *static_cast<const uintptr_t*>(argument);
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    const ElfW(Phdr) & header = object->dlpi_phdr[i];
    const bool constant =
        header.p_type == PT_GNU_RELRO || (header.p_type == PT_LOAD && !(header.p_flags & PF_W));
    if (constant && address - object->dlpi_addr - header.p_vaddr < header.p_memsz) return 1;
  }
  return 0;
}

[[gnu::noinline]] void check_elsewhere(Access access, uintptr_t address, size_t bytes, const Region* before,
                                       uint32_t place) {
  const Kernel& kernel = machine.launch.kernel;
  const bool parameter =
      address - reinterpret_cast<uintptr_t>(kernel.parameters) + bytes <= kernel.parameter_bytes;
  if (access == Access::read && (parameter || dl_iterate_phdr(&find_constant, &address))) return;
  std::string what = "memory";
  if (parameter) what = "its parameters";
  std::string why = ", where it has nothing to access";
  const auto after = before ? before + 1 : regions.data();
  if (before && address - before->end < 1 << 20)
    why = sentence(", which begin ", address - before->end, " bytes behind ", before->name);
  else if (after < regions.data() + regions.size() && after->begin - address < 1 << 20)
    why = sentence(", which begin ", after->begin - address, " bytes in front of ", after->name);
  report("Access out of bounds", access, bytes, what, place, why);
}

}  // namespace

void check_access(Access access, const void* pointer, size_t bytes, const void* caller) {
  if (!machine.thread || !machine.checking) return;
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  const Thread& self = *machine.thread;
  if (address - self.fiber->stack() < Fiber::stack_bytes) return;

  Block& block = *machine.block;
  const Launch& launch = machine.launch;
  // The instruction before the return address.
  const auto place = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(caller) - machine.code - 1);
  const size_t offset = address - reinterpret_cast<uintptr_t>(launch.segment);
  const bool shared = offset < launch.segment_bytes;
  Granule* granule;
  Region* region = nullptr;
  bool is_static = false;
  if (shared) {
    const size_t dynamic = offset - launch.dynamic_offset;
    is_static = dynamic >= max_shared_bytes;
    if (offset + bytes > launch.segment_bytes || (!is_static && dynamic + bytes > launch.dynamic_bytes))
      report("Access out of bounds", access, bytes, "shared memory", place,
             sentence(", at byte ", dynamic, " of the ", launch.dynamic_bytes, " that the launch asked for"));
    touch_shared_memory(offset, bytes);
    granule = &block.granules[offset / 4];
  } else {
    region = region_before(address);
    if (!region || address + bytes > region->end) return check_elsewhere(access, address, bytes, region, place);
    region->allocate();
    granule = &region->granule(address);
    Counters& counters = machine.counters;
    if (access != Access::write) counters.bytes_loaded += bytes;
    if (access != Access::read) counters.bytes_stored += bytes;
  }
  const auto what = [&] { return shared ? std::string("shared memory") : region->name; };
  const bool atomic = access == Access::atomic;
  if (atomic && address % bytes)
    report("Misaligned access", access, bytes, what(), place, sentence(", at no multiple of ", bytes));
  if (atomic) acquire_and_release(address);

  const uint32_t first_of_call = machine.first_block_of_call, serial = block.serial;
  const uintptr_t end = address + bytes;
  for (uintptr_t begin = address & ~uintptr_t{3}; begin < end; begin += 4, ++granule) {
    unsigned mask = 15;
    if (begin < address) mask &= 15u << (address - begin);
    if (begin + 4 > end) mask &= 15u >> (begin + 4 - end);
    Granule& g = *granule;
    if (shared) {
      if (g.writer.block != serial && g.reader.block != serial) {
        g = {};  // of an earlier block
        block.static_granules += is_static;
      }
    } else {
      const bool changed = g.writer.atomic && g.writer.block >= first_of_call;
      if (access != Access::write && g.reader.block < first_of_call && !changed)
        machine.counters.unique_bytes_loaded += 4;
      if (access != Access::read && g.writer.block < first_of_call) machine.counters.unique_bytes_stored += 4;
    }
    if (access != Access::write && !(region && region->tensor) && (mask & ~g.initialised))
      report("Read of uninitialised memory", access, bytes, what(), place, ", which nobody has written");
    const Party& writer = g.writer;
    if ((writer.bytes & mask) && !(atomic && writer.atomic) && !ordered(writer))
      report_race(writer, writer.atomic ? "atomically changed" : "wrote", access, bytes, what(), place);
    if (access == Access::read) {
      remember_reader(g, self.now, place, mask);
      continue;
    }
    for (Party* reader : {&g.reader, &g.reader_in_other_warp, &g.reader_in_other_block}) {
      if ((reader->bytes & mask) && !ordered(*reader))
        report_race(*reader, "read", access, bytes, what(), place);
      reader->bytes &= ~mask & 15;
    }
    set(g.writer, self.now, place, mask, atomic);
    g.initialised |= mask;
  }
}

void forget_launch() { releases.clear(); }

void pass_fence() {
  machine.thread->now.fences++;
  machine.thread->fence_phase = machine.block->phase;
}

void add_region(const void* address, size_t bytes, const std::string& name, bool tensor) {
  if (bytes == 0) return;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(address);
  Region region{begin, begin + bytes, name, tensor, nullptr, {}};
  // Arguments may share memory, which then has one history.
  const auto overlaps = [&](const Region& other) {
    return other.begin < region.end && region.begin < other.end;
  };
  for (auto other = std::find_if(regions.begin(), regions.end(), overlaps); other != regions.end();
       other = std::find_if(regions.begin(), regions.end(), overlaps)) {
    region.begin = std::min(region.begin, other->begin);
    region.end = std::max(region.end, other->end);
    region.name = other->name;
    regions.erase(other);
  }
  const auto after = std::find_if(regions.begin(), regions.end(),
                                  [&](const Region& other) { return other.begin > region.begin; });
  regions.insert(after, std::move(region));
}

bool remove_region(const void* address) {
  const auto found = std::find_if(regions.begin(), regions.end(), [&](const Region& region) {
    return !region.tensor && region.begin == reinterpret_cast<uintptr_t>(address);
  });
  if (found == regions.end()) return false;
  regions.erase(found);
  return true;
}

void forget_tensors() {
  regions.erase(
      std::remove_if(regions.begin(), regions.end(), [](const Region& region) { return region.tensor; }),
      regions.end());
}

void save_allocations() {
  for (Region& region : regions) {
    const char* content = reinterpret_cast<const char*>(region.begin);
    if (!region.tensor) region.saved.assign(content, content + (region.end - region.begin));
  }
}

void restore_allocations() {
  for (const Region& region : regions)
    if (!region.tensor) memcpy(reinterpret_cast<char*>(region.begin), region.saved.data(), region.saved.size());
}

void record_memset(const void* address, size_t bytes) {
  if (!machine.checking || bytes == 0) return;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(address), end = begin + bytes;
  Region* region = region_before(begin);
  if (!region || end > region->end)
    return fail(
        "Access out of bounds: cudaMemset writes to memory that is neither an argument nor of cudaMalloc.");
  region->allocate();
  machine.counters.bytes_stored += bytes;
  const uint32_t time = machine.next_block++;
  for (uintptr_t i = begin & ~uintptr_t{3}; i < end; i += 4) {
    Granule& granule = region->granule(i);
    if (granule.writer.block < machine.first_block_of_call) machine.counters.unique_bytes_stored += 4;
    granule.writer = {};
    granule.writer.block = time;
    granule.initialised = 15;
  }
}

}  // namespace emulator
