// Registers per thread: at most 80 in float32, 80 in float64.
#include "ops/softmax_prox.h"

#include <limits>

#include "reduction.h"

namespace altmin::cuda {

namespace {

constexpr int warps = 8;

// The largest of the lanes' numbers; all of them get it.
__device__ __forceinline__ double warp_largest(double value) {
  for (int lane = warp_size / 2; lane > 0; lane /= 2)
    value = fmax(value, __shfl_xor_sync(whole_warp, value, lane));
  return value;
}

// One warp per row: all its lanes know the sums, to the same bits, and so take the same steps.
template <typename T>
__global__ void __launch_bounds__(warps* warp_size) softmax_prox_kernel(SoftmaxProx<T> o) {
  const int64_t lane = threadIdx.x;
  T zero = 0;  // as long as all results are finite
  for (int64_t row = blockIdx.x * int64_t{warps} + threadIdx.y; row < o.batch;
       row += int64_t{gridDim.x} * warps) {
    const T* center = o.center + row * o.classes;
    T* out = o.out + row * o.classes;  // may be `center`
    const int64_t label = o.labels[row];
    const bool inside = label >= 0 && label < o.classes;
    const double of_label = inside ? center[label] : std::numeric_limits<double>::quiet_NaN();
    const auto omega = [&](int64_t j, double shift) { return wright_omega(center[j] - of_label - shift); };
    double largest = -std::numeric_limits<double>::infinity();
    for (int64_t j = lane; j < o.classes; j += warp_size)
      largest = fmax(largest, static_cast<double>(center[j]));
    const double lead = warp_largest(largest) - of_label;
    SoftmaxSums softmax{};
    for (int64_t j = lane; j < o.classes; j += warp_size)
      if (j != label) softmax.add(exponential_to_zero(center[j] - of_label - lead));
    double loss = least_loss(lead, o.rho, {warp_sum(softmax.values), warp_sum(softmax.squares)}), step;
    do {
      const double shift = shift_of(loss, o.rho, log(o.rho));  // kept in a register, the logarithm would spill
      OmegaSums sums{};
      for (int64_t j = lane; j < o.classes; j += warp_size)
        if (j != label) sums.add(omega(j, shift));
      step = newton_step(loss, o.rho, {warp_sum(sums.values), warp_sum(sums.slopes)});
      loss += step;
    } while (goes_on(step, loss));
    const double rise = rise_of(loss, o.rho), shift = shift_of(loss, o.rho, log(o.rho));
    __syncwarp();  // all lanes have read the label's center, which one of them may overwrite now
    for (int64_t j = lane; j < o.classes; j += warp_size) {
      const T z = static_cast<T>(j == label ? of_label + rise : center[j] - omega(j, shift));
      out[j] = z;
      zero += z * T(0);
    }
  }
  if (!(zero == T(0))) raise(o.guard);
}

}  // namespace

// A label out of range makes its row NaN, which raises the guard: to say which one would take a synchronisation.
template <typename T>
int64_t softmax_prox(const SoftmaxProx<T>& o, Stream stream) {
  if (o.batch == 0) return -1;
  launch(softmax_prox_kernel<T>, blocks_for(ceil_divide(o.batch, warps)), dim3(warp_size, warps), stream, o);
  return -1;
}

ALTMIN_INSTANTIATE_CUDA(softmax_prox, int64_t, SoftmaxProx)

}  // namespace altmin::cuda
