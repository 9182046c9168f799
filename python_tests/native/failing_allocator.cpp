// Preloaded in front of the C++ library, this operator new fails where a test wants it to: from the n-th allocation on,
// whichever thread asks.
#include <atomic>
#include <cstdlib>
#include <new>

namespace {

std::atomic<long> left{-1};  // allocations until they fail; negative: never
std::atomic<bool> failed{false};

void* allocate(size_t bytes) {
  if (left.load() >= 0 && left.fetch_sub(1) <= 0) {
    left = 0;
    failed = true;
    throw std::bad_alloc();
  }
  void* memory = std::malloc(bytes ? bytes : 1);
  if (!memory) throw std::bad_alloc();
  return memory;
}

}  // namespace

extern "C" {
void fail_after(long count) {
  failed = false;
  left = count;
}
// Returns whether an allocation has failed since.
bool fail_no_more() {
  left = -1;
  return failed;
}
}

void* operator new(size_t bytes) { return allocate(bytes); }
void* operator new[](size_t bytes) { return allocate(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
