// Registers per thread: at most 128 in float32, 224 in float64.
#include "ops/code_step.h"

#include <cmath>
#include <limits>

#include "ops/proximal.h"
#include "pack.h"
#include "reduction.h"

namespace altmin::cuda {

namespace {

constexpr int threads = 256;

// Moves the elements from `place`; returns the sum of squares of their displacement.
template <int width, typename T, typename Sigma>
__device__ __forceinline__ double move(const CodeStep<T>& o, const CodeStepFactors<T>& f, const Sigma& sigma,
                                       int64_t place) {
  const auto code = load<width>(o.code + place);
  const auto pulled_back = load<width>(o.pulled_back + place);
  const auto change = load_or<width>(o.pulled_back_change, place, T(0));
  const auto mask = load_or<width>(o.mask, place, T(1));
  const auto gap = load_or<width>(o.gap, place, std::numeric_limits<T>::infinity());
  auto delta = load_or<width>(o.first ? nullptr : o.displacement, place, T(0));
  auto velocity = load_or<width>(o.first ? nullptr : o.velocity, place, T(0));
  Pack<T, width> activation, activation_displacement;
  double square = 0;
  for (int i = 0; i < width; ++i) {
    T gradient = f.pulled_back * pulled_back[i];
    if (o.pulled_back_change) gradient += f.pulled_back_change * change[i];
    if (o.mask) gradient *= mask[i];
    gradient = gradient * sigma.derivative(code[i] - f.unit * delta[i]) - f.anchor * delta[i];
    velocity[i] = o.velocity ? f.momentum * velocity[i] + gradient : gradient;
    delta[i] += f.eta * (gradient + f.momentum * velocity[i]);
    if (f.threshold > T(0))
      delta[i] = (code[i] - soft_threshold(code[i] - f.unit * delta[i], f.eta * f.threshold)) / f.unit;
    square += static_cast<double>(delta[i]) * static_cast<double>(delta[i]);
    const T moved = f.unit * delta[i] > gap[i] ? gap[i] / f.unit : delta[i];
    activation[i] = mask[i] * sigma.value(code[i] - f.unit * moved);
    if (o.activation_displacement)
      activation_displacement[i] = mask[i] * sigma.difference(code[i], moved, f.unit);
  }
  store(o.displacement + place, delta);
  if (o.velocity) store(o.velocity + place, velocity);
  store(o.activation + place, activation);
  if (o.activation_displacement) store(o.activation_displacement + place, activation_displacement);
  return square;
}

// With no more blocks to a multiprocessor than one asked for, the compiler has registers enough to spill none.
template <int width, typename T, typename Sigma>
__global__ void __launch_bounds__(threads, 1)
    code_step_kernel(CodeStep<T> o, Sigma sigma, Workspace workspace) {
  __shared__ CodeStepFactors<T> f;  // quotients in double: once per block is enough
  if (threadIdx.x == 0) f = factors_of(o);
  __syncthreads();
  const int64_t thread = blockIdx.x * int64_t{threads} + threadIdx.x, stride = int64_t{gridDim.x} * threads;
  const int64_t packs = o.size / width;
  double square = 0;
  for (int64_t pack = thread; pack < packs; pack += stride) square += move<width>(o, f, sigma, pack * width);
  if (packs * width + thread < o.size) square += move<1>(o, f, sigma, packs * width + thread);

  launch_sum(square, workspace, [&](double sum) {
    conclude(o, sum);  // no block reads the scalars any more
    if (!is_finite_sum(sum)) raise(o.guard);
  });
}

template <int width, typename T>
void launch_code_step(const CodeStep<T>& o, Stream stream) {
  const unsigned blocks = blocks_for(ceil_divide(o.size, threads * width));
  const Workspace workspace = Workspace::of(stream, blocks);
  dispatch_activation<T>(o.kind, o.parameter, [&](auto sigma) {
    launch(code_step_kernel<width, T, decltype(sigma)>, blocks, threads, stream, o, sigma, workspace);
  });
}

}  // namespace

template <typename T>
void code_step(const CodeStep<T>& o, Stream stream) {
  if (aligned(o.code, o.pulled_back, o.pulled_back_change, o.mask, o.displacement, o.velocity, o.activation,
              o.activation_displacement, o.gap))
    launch_code_step<pack_width<T>>(o, stream);
  else
    launch_code_step<1>(o, stream);
}

ALTMIN_INSTANTIATE_CUDA(code_step, void, CodeStep)

}  // namespace altmin::cuda
