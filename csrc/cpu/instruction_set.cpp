#include <cstring>

#include "ops/backend.h"

namespace altmin::cpu {

namespace {

bool avx2_offered() {
#if defined(ALTMIN_WITH_AVX2)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

}  // namespace

bool avx2_in_use = avx2_offered();

const char* instruction_set() { return avx2_in_use ? "avx2" : "baseline"; }

bool use_instruction_set(const char* name) {
  const bool avx2 = std::strcmp(name, "avx2") == 0;
  if (avx2 ? !avx2_offered() : std::strcmp(name, "baseline") != 0) return false;
  avx2_in_use = avx2;
  return true;
}

}  // namespace altmin::cpu
