#include <cstring>
#include <iterator>

#include "ops/backend.h"

namespace altmin::cpu {

namespace {

constexpr const char* names[] = {"baseline", "avx2", "avx512"};

bool offered(InstructionSet set) {
#if defined(ALTMIN_WITH_AVX2)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (set == InstructionSet::avx2) return avx2;
  if (set == InstructionSet::avx512) return avx2 && __builtin_cpu_supports("avx512f");
#endif
  return set == InstructionSet::baseline;
}

InstructionSet widest() {
  InstructionSet best = InstructionSet::baseline;
  for (const InstructionSet set : {InstructionSet::avx2, InstructionSet::avx512})
    if (offered(set)) best = set;
  return best;
}

}  // namespace

std::atomic<InstructionSet> instruction_set_in_use = widest();

const char* instruction_set() { return names[static_cast<int>(instruction_set_in_use.load())]; }

bool use_instruction_set(const char* name) {
  for (int i = 0; i < static_cast<int>(std::size(names)); ++i) {
    const auto set = static_cast<InstructionSet>(i);
    if (std::strcmp(name, names[i]) == 0 && offered(set)) {
      instruction_set_in_use = set;
      return true;
    }
  }
  return false;
}

}  // namespace altmin::cpu
