// Registers per thread: at most 120 in float32, 200 in float64.
#include "ops/elman_code_step.h"

#include "elman.h"
#include "reduction.h"

namespace altmin::cuda {

namespace {

// What the kernels of a call hand on to each other, in the memory of the stream.
template <typename T>
struct Passed {
  T *displacement, *moved;  // delta_t, later r_t in its unit, and (h_t - h0_t) / unit, in lanes
  T *pulled_back, *back, *velocity, *through;  // (groups, width, 16) each, of the time step that a block is at
  double* sums;                                // (splits, rows, columns), partial
  int64_t splits, rows, columns;

  Passed(const ElmanCodeStep<T>& o, int64_t splits_)
      : splits(splits_), rows(o.width + (o.gram ? o.width + o.n_in + 1 : 0)), columns(o.width + o.n_in + 1) {}

  int64_t numbers(const ElmanCodeStep<T>& o) const {
    const int64_t of_step = groups_of(o.batch) * o.width * lanes;
    return (2 * o.steps + 4) * of_step + splits * rows * columns;
  }
  // Behind the numbers of launch_sum, one for each block.
  void place(const ElmanCodeStep<T>& o, double* next) {
    const int64_t of_step = groups_of(o.batch) * o.width * lanes;
    const auto take = [&next](int64_t size) {
      double* const taken = next;
      next += size;
      return taken;
    };
    sums = take(splits * rows * columns);
    displacement = reinterpret_cast<T*>(take(o.steps * of_step));
    moved = reinterpret_cast<T*>(take(o.steps * of_step));
    pulled_back = reinterpret_cast<T*>(take(of_step));
    back = reinterpret_cast<T*>(take(of_step));
    velocity = reinterpret_cast<T*>(take(of_step));
    through = reinterpret_cast<T*>(take(of_step));
  }
};

// The codes of a group, from the last time step to the first. With no more blocks to a multiprocessor than one asked
// for, the compiler has registers enough to spill none.
template <typename T, typename Phi>
__global__ void __launch_bounds__(elman_threads<T>, 1)
    codes_kernel(ElmanCodeStep<T> o, Phi phi, Passed<T> passed, Workspace workspace) {
  __shared__ CodeStepFactors<T> f;  // quotients in double: once per block is enough
  if (thread_in_block() == 0) f = factors_of(o);
  __syncthreads();
  const int lane = threadIdx.x;
  const int64_t d = o.width, n = d * lanes, inputs = o.steps * d, sample = blockIdx.x * lanes + lane;
  const T* const weight = o.recurrent_weight;
  const int64_t begin = blockIdx.x * o.steps * n + lane, own = blockIdx.x * n + lane;
  T *const pulled_back = passed.pulled_back + own, *const back = passed.back + own;
  T *const velocity = passed.velocity + own, *const through = passed.through + own;
  double square = 0;
  for (int64_t t = o.steps; t > 0 && begin - lane < groups_of(o.batch) * o.steps * n; --t) {
    const T* const hidden = o.hidden + begin + (t - 1) * n;
    T *const delta = passed.displacement + begin + (t - 1) * n, *const moved =
                                                                    passed.moved + begin + (t - 1) * n;
    const bool last = t == o.steps;
    for (int64_t i = threadIdx.y; i < d; i += blockDim.y) {
      T pull = 0;
      for (int64_t k = 0; k < o.n_out && sample < o.batch; ++k)
        pull += o.output_weight[k * inputs + (t - 1) * d + i] * o.displacement[sample * o.n_out + k];
      const T push = last ? T(0) : lane_product(weight + i, d, delta + n, d), h = hidden[i * lanes];
      const T force = f.pulled_back * pull * phi.derivative(h) + f.pulled_back_change * push;
      const T gradient = force * (T(1) - h * h);
      delta[i * lanes] = f.eta * (T(1) + f.momentum) * gradient;
      moved[i * lanes] = hidden_difference(h, delta[i * lanes], f.unit);
      pulled_back[i * lanes] = pull;
      back[i * lanes] = push;
      velocity[i * lanes] = gradient;
    }
    for (int iteration = 1; iteration < o.iterations; ++iteration) {
      __syncthreads();
      for (int64_t i = threadIdx.y; i < d && !last; i += blockDim.y)
        through[i * lanes] = lane_product(weight + i * d, 1, moved, d);
      __syncthreads();
      for (int64_t i = threadIdx.y; i < d; i += blockDim.y) {
        const T h0 = hidden[i * lanes], h = h0 + f.unit * moved[i * lanes];
        const T pull = f.pulled_back * pulled_back[i * lanes] +
                       f.pulled_back_change * phi.difference(h0, -moved[i * lanes], f.unit);
        const T push = back[i * lanes] + (last ? T(0) : lane_product(weight + i, d, through, d));
        const T force = pull * phi.derivative(h) + f.pulled_back_change * push;
        const T gradient = force * (T(1) - h * h) - f.anchor * delta[i * lanes];
        velocity[i * lanes] = f.momentum * velocity[i * lanes] + gradient;
        delta[i * lanes] += f.eta * (gradient + f.momentum * velocity[i * lanes]);
        moved[i * lanes] = hidden_difference(h0, delta[i * lanes], f.unit);
      }
    }
    for (int64_t i = threadIdx.y; i < d; i += blockDim.y)
      square += static_cast<double>(delta[i * lanes]) * static_cast<double>(delta[i * lanes]);
    __syncthreads();
  }
  launch_sum(square, workspace, [&](double sum) {
    conclude(o, sum);  // no block reads the scalars any more
    if (!is_finite_sum(sum)) raise(o.guard);
  });
}

// displacement becomes r_t = delta_t + U (h_{t-1} - h0_{t-1}) / unit.
template <typename T>
__global__ void __launch_bounds__(256)
    residual_kernel(ElmanCodeStep<T> o, Passed<T> passed, Workspace workspace) {
  const int64_t d = o.width, n = d * lanes, count = groups_of(o.batch) * o.steps * n;
  double square = 0;
  for (int64_t place = blockIdx.x * int64_t{256} + threadIdx.x; place < count;
       place += gridDim.x * int64_t{256}) {
    const int64_t lane = place % lanes, i = place / lanes % d, step = place / n;
    T r = passed.displacement[place];
    if (step % o.steps > 0)
      r += lane_product(o.recurrent_weight + i * d, 1, passed.moved + (step - 1) * n + lane, d);
    passed.displacement[place] = r;
    square += static_cast<double>(r) * static_cast<double>(r);
  }
  launch_sum(square, workspace, [&](double sum) {
    const double factor = o.scalars->unit / o.scalars->scale;
    o.scalars->residual_square = factor * factor * sum;
  });
}

constexpr int tile = 64;                      // a block's part of the matrix of sums
constexpr int side = 16, part = tile / side;  // a thread's part is part x part

// Entry i of a_t = [h_{t-1}; x_t; 1]; `step` counts through the groups.
template <typename T>
__device__ __forceinline__ T input_at(const ElmanCodeStep<T>& o, const Passed<T>& passed, T unit, int64_t step,
                                      int64_t i, int lane) {
  const int64_t sample = step / o.steps * lanes + lane, t = step % o.steps;
  if (i < o.width) {
    const int64_t place = ((step - 1) * o.width + i) * lanes + lane;
    return t > 0 ? o.hidden[place] + unit * passed.moved[place] : T(0);
  }
  if (sample >= o.batch || i >= passed.columns) return T(0);
  return i < o.width + o.n_in ? o.x[(sample * o.steps + t) * o.n_in + i - o.width] : T(1);
}

// Tiles of [r; a] a^T, summed up over a part of the time steps of all groups.
template <typename T>
__global__ void __launch_bounds__(side* side) sums_kernel(ElmanCodeStep<T> o, Passed<T> passed) {
  __shared__ T left[lanes][tile], right[lanes][tile];
  const int64_t across = (passed.columns + tile - 1) / tile, tiles = (passed.rows + tile - 1) / tile * across;
  const int64_t split = blockIdx.x / tiles, place = blockIdx.x % tiles;
  const int64_t first_row = place / across * tile, first_column = place % across * tile;
  const int64_t steps = groups_of(o.batch) * o.steps;
  const int64_t begin = steps * split / passed.splits, end = steps * (split + 1) / passed.splits;
  const T unit = static_cast<T>(o.scalars->unit);
  const int thread = threadIdx.x, row = thread / side, column = thread % side;
  T sums[part][part] = {};
  for (int64_t step = begin; step < end; ++step) {
    T slice[part][part] = {};  // added up apart, so that many time steps lose no digits
    for (int i = thread; i < lanes * tile; i += side * side) {
      const int lane = static_cast<int>(i % lanes), offset = static_cast<int>(i / lanes);
      const int64_t r = first_row + offset;
      left[lane][offset] = r < o.width ? passed.displacement[(step * o.width + r) * lanes + lane]
                                       : input_at(o, passed, unit, step, r - o.width, lane);
      right[lane][offset] = input_at(o, passed, unit, step, first_column + offset, lane);
    }
    __syncthreads();
    for (int lane = 0; lane < lanes; ++lane) {
      T a[part], b[part];
      for (int i = 0; i < part; ++i) {
        a[i] = left[lane][row + i * side];
        b[i] = right[lane][column + i * side];
      }
      for (int i = 0; i < part; ++i)
        for (int j = 0; j < part; ++j) slice[i][j] += a[i] * b[j];
    }
    for (int i = 0; i < part; ++i)
      for (int j = 0; j < part; ++j) sums[i][j] += slice[i][j];
    __syncthreads();
  }
  for (int i = 0; i < part; ++i) {
    for (int j = 0; j < part; ++j) {
      const int64_t r = first_row + row + i * side, c = first_column + column + j * side;
      if (r < passed.rows && c < passed.columns)
        passed.sums[(split * passed.rows + r) * passed.columns + c] = static_cast<double>(sums[i][j]);
    }
  }
}

// The parts added up, in their order.
template <typename T>
__global__ void __launch_bounds__(256) total_kernel(ElmanCodeStep<T> o, Passed<T> passed) {
  const int64_t size = passed.rows * passed.columns, of_cross = o.width * passed.columns;
  const double factor = o.scalars->unit / o.scalars->scale;
  for (int64_t i = blockIdx.x * int64_t{256} + threadIdx.x; i < size; i += gridDim.x * int64_t{256}) {
    double sum = 0;
    for (int64_t split = 0; split < passed.splits; ++split) sum += passed.sums[split * size + i];
    if (i < of_cross)
      o.cross[i] = static_cast<T>(factor * sum);
    else
      o.gram[i - of_cross] = static_cast<T>(sum);
  }
}

constexpr int output_columns = 16;  // of a block
constexpr int together = 10;        // gradients that a thread sums up while it has an output

// o, and residual^T o: 16 threads for each number of the output sequence.
template <typename T, typename Phi>
__global__ void __launch_bounds__(lanes* output_columns) output_kernel(ElmanCodeStep<T> o, Phi phi) {
  const int lane = threadIdx.x;
  const int64_t inputs = o.steps * o.width, column = blockIdx.x * int64_t{output_columns} + threadIdx.y;
  const bool inside = column < inputs;
  const T unit = static_cast<T>(o.above->unit);
  for (int64_t first = 0; first < o.n_out || first == 0; first += together) {
    T gradients[together] = {};
    for (int64_t group = 0; group < groups_of(o.batch) && inside; ++group) {
      const int64_t sample = group * lanes + lane;
      if (sample >= o.batch) continue;
      T pull = 0;
      for (int64_t k = 0; k < o.n_out; ++k)
        pull += o.output_weight[k * inputs + column] * o.displacement[sample * o.n_out + k];
      const T output = phi.value(o.hidden[(group * inputs + column) * lanes + lane]) - unit * pull;
      if (o.output && first == 0) o.output[sample * inputs + column] = output;
      for (int k = 0; k < together; ++k)
        if (o.output_gradient && first + k < o.n_out)
          gradients[k] += o.residual[sample * o.n_out + first + k] * output;
    }
    for (int k = 0; k < together; ++k) {
      T sum = gradients[k];
      for (int64_t other = lanes / 2; other > 0; other /= 2)
        sum += __shfl_xor_sync(whole_warp, sum, static_cast<int>(other));
      if (o.output_gradient && inside && lane == 0 && first + k < o.n_out)
        o.output_gradient[(first + k) * inputs + column] = sum;
    }
  }
}

}  // namespace

template <typename T>
void elman_code_step(const ElmanCodeStep<T>& given, Stream stream) {
  ElmanCodeStep<T> o = given;
  if (o.size == 0 && !o.gram) {
    // Nothing is summed up, of any number of samples, time steps and inputs.
    o.batch = o.steps = 0;
    if (o.width == 0) o.n_in = 0;
  }
  const int64_t groups = groups_of(o.batch), steps = groups * o.steps, inputs = o.steps * o.width;
  const int64_t places = steps * o.width * lanes;
  const unsigned residual_blocks = blocks_for(ceil_divide(places, 256));
  const int64_t tall = ceil_divide(o.width + (o.gram ? o.width + o.n_in + 1 : 0), tile);
  const int64_t tiles = tall * ceil_divide(o.width + o.n_in + 1, tile);
  Passed<T> passed(o, std::max<int64_t>(1, std::min<int64_t>(steps, ceil_divide(4 * multiprocessors(),
                                                                                std::max<int64_t>(1, tiles)))));
  const int64_t blocks = std::max<int64_t>(std::max<int64_t>(1, groups), residual_blocks);
  const Workspace workspace = Workspace::of(stream, blocks + passed.numbers(o));
  passed.place(o, workspace.numbers + blocks);
  dispatch_activation<T>(o.kind, o.parameter, [&](auto phi) {
    launch(codes_kernel<T, decltype(phi)>, static_cast<unsigned>(std::max<int64_t>(1, groups)),
           elman_block<T>(o.width), stream, o, phi, passed, workspace);
    if ((o.output || o.output_gradient) && inputs > 0)
      launch(output_kernel<T, decltype(phi)>, static_cast<unsigned>(ceil_divide(inputs, output_columns)),
             dim3(lanes, output_columns), stream, o, phi);
  });
  launch(residual_kernel<T>, residual_blocks, 256, stream, o, passed, workspace);
  if (tiles > 0)
    launch(sums_kernel<T>, static_cast<unsigned>(tiles * passed.splits), side * side, stream, o, passed);
  launch(total_kernel<T>, blocks_for(ceil_divide(passed.rows * passed.columns, 256)), 256, stream, o, passed);
}

ALTMIN_INSTANTIATE_CUDA(elman_code_step, void, ElmanCodeStep)

}  // namespace altmin::cuda
