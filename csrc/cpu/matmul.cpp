#include "ops/matmul.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "blas.h"
#include "lane_product.h"
#include "parallel.h"
#include "transpose.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// A product as it is computed: what is on the left is read number by number, each of which multiplies vectors of what
// is on the right. If it is the other way round than the op has it, `out` is transposed.
template <typename T>
struct Arrangement {
  int64_t rows, columns, depth;
  const T* left;
  int64_t left_row, left_depth;  // strides
  const T* right;
  int64_t right_stride;    // between its lines,
  bool lines_are_columns;  // which are columns of it or rows
  T* out;
  int64_t out_stride;
  bool out_is_transposed;
};

// Steps of the sum that are taken together. A block of the right side stays in the nearest cache meanwhile, and
// several sums of few numbers lose fewer digits than one of many.
constexpr int64_t most_depth = 128;

// Rows of a tile that is so many vectors wide: the sums stay in registers, and there are enough of them for the next
// one to begin before the last one ends.
constexpr int most_rows_of(int vectors) {
  if (vector_registers == 32) return vectors == 1 ? 24 : 14;
  return vectors == 1 ? 12 : 6;
}

// How many panels further on a right side that comes from memory is asked for, while sums are computed.
constexpr int fetched_panels = 4;

// out[r] (+)= sum over l of left[r * left_row + l * left_depth] right[l * right_stride].
template <typename T>
using MatMulTile = void (*)(const T* left, int64_t left_row, int64_t left_depth, const T* right,
                            int64_t right_stride, int64_t depth, bool add, T* out, int64_t out_stride);

template <typename T, int vectors, int rows, bool fetches = false>
void matmul_tile(const T* left, int64_t left_row, int64_t left_depth, const T* right, int64_t right_stride,
                 int64_t depth, bool add, T* out, int64_t out_stride) {
  constexpr int64_t width = vector_width<T>;
  // An address has a register and a stride times 1 or 2: of every third row the address is kept.
  constexpr int kept = (rows + 2) / 3;
  const T* third[kept];
#pragma GCC unroll 16
  for (int i = 0; i < kept; ++i) third[i] = left + 3 * i * left_row;
  Vector<T> sum[rows][vectors] = {};
  for (int64_t l = 0; l < depth; ++l) {
    Vector<T> x[vectors];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      x[v] = load(right + v * width);
      if constexpr (fetches) __builtin_prefetch(right + (fetched_panels * vectors + v) * width);
    }
    right += right_stride;
#pragma GCC unroll 32
    for (int r = 0; r < rows; ++r) {
      const Vector<T> factor = broadcast(third[r / 3][r % 3 * left_row]);
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sum[r][v] += factor * x[v];
    }
#pragma GCC unroll 16
    for (int i = 0; i < kept; ++i) third[i] += left_depth;
  }
#pragma GCC unroll 32
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      T* const to = out + r * out_stride + v * width;
      store(to, add ? load(to) + sum[r][v] : sum[r][v]);
    }
  }
}

template <typename T, int vectors, bool fetches, int... rows>
constexpr std::array<MatMulTile<T>, sizeof...(rows)> matmul_tiles_of(std::integer_sequence<int, rows...>) {
  return {&matmul_tile<T, vectors, rows + 1, fetches>...};
}

template <typename T, int vectors, bool fetches = false>
constexpr auto matmul_tiles =
    matmul_tiles_of<T, vectors, fetches>(std::make_integer_sequence<int, most_rows_of(vectors)>{});

// Copies fewer numbers than a vector has, in two parts that may overlap.
template <typename T, int64_t half = vector_width<T> / 2>
inline void copy_few(const T* from, int64_t count, T* to) {
  if constexpr (half > 0) {
    if (count < half) return copy_few<T, half / 2>(from, count, to);
    T first[half], last[half];
    std::memcpy(first, from, sizeof(first));
    std::memcpy(last, from + count - half, sizeof(last));
    std::memcpy(to, first, sizeof(first));
    std::memcpy(to + count - half, last, sizeof(last));
  }
}

// Bytes of a result that are added to again and again, which a cache should hold.
constexpr int64_t most_in_cache = 1 << 18;

// Whether the right side comes from memory: of a panel, a line or two out of every row, each row would take a page.
template <typename T>
bool is_read_by_rows(const Arrangement<T>& o) {
  return !o.out_is_transposed && !o.lines_are_columns && o.depth > most_depth &&
         o.depth * o.columns * static_cast<int64_t>(sizeof(T)) > 4 * most_in_cache;
}

// Computes a rectangle of the product, a panel of one or two vectors' columns after the other.
template <typename T>
class Rectangle {
 public:
  Rectangle(const Arrangement<T>& o, int64_t row, int64_t rows, int64_t column, int64_t columns)
      : o_(o),
        row_(row),
        rows_(rows),
        begin_(column),
        end_(column + columns),
        rows_collide_(o.left_depth == 1 && o.left_row * static_cast<int64_t>(sizeof(T)) % 4096 == 0) {}

  // A last panel that is not full begins further left: what it has in common with the one before comes out the same.
  void compute() {
    int64_t column = begin_;
    if (is_read_by_rows(o_)) {
      const int64_t fit = most_in_cache / (rows_ * static_cast<int64_t>(sizeof(T))) / (2 * width) * (2 * width);
      const int64_t part = std::max<int64_t>(fit, 8 * 2 * width);
      for (; end_ - column >= 2 * width; column += std::min(part, (end_ - column) / (2 * width) * (2 * width)))
        panels(column, std::min(part, (end_ - column) / (2 * width) * (2 * width)));
    }
    for (; end_ - column >= 2 * width; column += 2 * width) panel<2>(column, 2 * width);
    const int64_t rest = end_ - column;
    if (rest == 0) return;
    if (end_ - begin_ < width) return panel<1>(column, rest);
    if (rest > width && end_ - begin_ >= 2 * width) return panel<2>(end_ - 2 * width, 2 * width);
    if (rest > width) panel<1>(column, width);
    panel<1>(end_ - width, width);
  }

 private:
  static constexpr int64_t width = vector_width<T>;
  static constexpr int64_t most_buffered = 240;  // rows
  // Whole panels, which go through each block of the depth together: the same sums as one after the other.
  void panels(int64_t column, int64_t columns) {
    constexpr int64_t stride = 2 * width;
    const Tiles cut(rows_, most_rows_in<2>());
    const bool copies = cut.count > 2;
    Tiles(o_.depth, most_depth).each([&](int64_t begin, int64_t depth) {
      const T* const left = o_.left + row_ * o_.left_row + begin * o_.left_depth;
      for (int64_t j = column; j < column + columns; j += stride) {
        const T* const right = o_.right + begin * o_.right_stride + j;
        T* const out = o_.out + row_ * o_.out_stride + j;
        if (copies) copy<2>(right, depth, stride, fetched_panels * stride);
        cut.each([&](int64_t first, int64_t rows) {
          const auto& tiles = first > 0 || copies ? matmul_tiles<T, 2> : matmul_tiles<T, 2, true>;
          tiles[static_cast<size_t>(rows - 1)](left + first * o_.left_row, o_.left_row, o_.left_depth,
                                               copies ? copy_ : right, copies ? stride : o_.right_stride, depth,
                                               begin > 0, out + first * o_.out_stride, o_.out_stride);
        });
      }
    });
  }

  template <int vectors>
  int64_t most_rows_in() const {
    return rows_collide_ ? std::min(8, most_rows_of(vectors)) : most_rows_of(vectors);
  }

  template <int vectors>
  void panel(int64_t column, int64_t columns) {
    constexpr int64_t stride = vectors * width;
    const bool whole = columns == stride, direct = whole && !o_.out_is_transposed;
    const bool copies = o_.lines_are_columns || !whole || rows_ > most_rows_of(vectors);
    const Tiles parts(rows_, direct ? rows_ : most_buffered), blocks(o_.depth, most_depth);
    parts.each([&](int64_t part, int64_t part_rows) {
      const int64_t row = row_ + part;
      const Tiles cut(part_rows, most_rows_in<vectors>());
      T* const to = direct ? o_.out + row * o_.out_stride + column : buffer_;
      const int64_t to_stride = direct ? o_.out_stride : stride;
      blocks.each([&](int64_t begin, int64_t depth) {
        const T* right = o_.right + (o_.lines_are_columns ? column * o_.right_stride + begin
                                                          : begin * o_.right_stride + column);
        const T* left = o_.left + row * o_.left_row + begin * o_.left_depth;
        if (copies) copy<vectors>(right, depth, columns);
        cut.each([&](int64_t first, int64_t rows) {
          matmul_tiles<T, vectors>[static_cast<size_t>(rows - 1)](
              left + first* o_.left_row, o_.left_row, o_.left_depth, copies ? copy_ : right,
              copies ? stride : o_.right_stride, depth, begin > 0, to + first* to_stride, to_stride);
        });
      });
      if (o_.out_is_transposed)
        turn<vectors>(part_rows, columns, o_.out + column * o_.out_stride + row);
      else if (!direct)
        for (int64_t r = 0; r < part_rows; ++r)
          copy_few(buffer_ + r * stride, columns, o_.out + (row + r) * o_.out_stride + column);
    });
  }

  // Columns of the right side, row after row, and zeros beside them. What is `ahead` in the rows is asked for.
  template <int vectors>
  void copy(const T* right, int64_t depth, int64_t columns, int64_t ahead = 0) {
    constexpr int64_t stride = vectors * width;
    T* to = copy_;
    if (!o_.lines_are_columns) {
      for (int64_t l = 0; l < depth; ++l, right += o_.right_stride, to += stride) {
        if (ahead > 0)
          for (int64_t j = 0; j < stride; j += width) __builtin_prefetch(right + ahead + j);
        if (columns == stride) {
          std::memcpy(to, right, stride * sizeof(T));
        } else {
          std::fill_n(to, stride, T(0));
          std::copy_n(right, columns, to);
        }
      }
      return;
    }
    for (int64_t first = 0; first < stride; first += width, right += width * o_.right_stride, to += width) {
      const int64_t lines = std::clamp<int64_t>(columns - first, 0, width);
      for (int64_t l = 0; depth >= width && l < depth; l += width) {
        l = std::min(l, depth - width);
        Vector<T> square[width];
        for (int64_t j = 0; j < width; ++j)
          square[j] = j < lines ? load(right + j * o_.right_stride + l) : Vector<T>{};
        transpose<T>(square);
        for (int64_t j = 0; j < width; ++j) store(to + (l + j) * stride, square[j]);
      }
      for (int64_t l = 0; depth < width && l < depth; ++l)
        for (int64_t j = 0; j < width; ++j)
          to[l * stride + j] = j < lines ? right[j * o_.right_stride + l] : T(0);
    }
  }

  // The buffer's rows to columns of `out`.
  template <int vectors>
  void turn(int64_t rows, int64_t columns, T* out) const {
    constexpr int64_t stride = vectors * width;
    if (rows < width) {
      for (int64_t j = 0; j < columns; ++j)
        for (int64_t r = 0; r < rows; ++r) out[j * o_.out_stride + r] = buffer_[r * stride + j];
      return;
    }
    for (int64_t first = 0; first < columns; first += width) {
      const int64_t count = std::min(width, columns - first);
      for (int64_t r = 0; r < rows; r += width) {
        r = std::min(r, rows - width);
        Vector<T> square[width];
        for (int64_t j = 0; j < width; ++j) square[j] = load(buffer_ + (r + j) * stride + first);
        transpose<T>(square);
        for (int64_t j = 0; j < count; ++j) store(out + (first + j) * o_.out_stride + r, square[j]);
      }
    }
  }

  const Arrangement<T>& o_;
  const int64_t row_, rows_, begin_, end_;
  // Whether equal places of the left side's rows share a set of the nearest cache, which has 8 or 12 places.
  const bool rows_collide_;
  alignas(64) T copy_[most_depth * 2 * width];
  alignas(64) T buffer_[most_buffered * 2 * width];
};

// About how many steps of two vectors' work it takes, without threads.
template <typename T>
int64_t cost_of(const Arrangement<T>& o, int64_t rows, int64_t columns) {
  const int64_t vectors = (columns + vector_width<T> - 1) / vector_width<T>;
  const int64_t copy = o.lines_are_columns ? 10 : 3;
  return vectors * (o.depth * (rows + copy) + (o.out_is_transposed ? 16 * rows : 0));
}

// Threads have rectangles of their own: all of a number's sum is one's.
template <typename T>
void multiply(const Arrangement<T>& o) {
  constexpr int64_t column_step = 2 * vector_width<T>;
  const int threads = threads_for(o.rows * o.columns * o.depth / 16);
  const int64_t panels = (o.columns + column_step - 1) / column_step;
  int64_t down = 1, across = 1, least = std::numeric_limits<int64_t>::max();
  for (int64_t parts = 1; parts <= std::min<int64_t>(threads, panels); ++parts) {
    const int64_t rows = std::min(o.rows, threads / parts);
    const int64_t cost =
        cost_of(o, (o.rows + rows - 1) / rows, std::min(o.columns, (panels + parts - 1) / parts * column_step));
    if (cost < least) least = cost, across = parts, down = rows;
  }
  parallel_ranges(
      down * across, static_cast<int>(down * across),
      [&](int, int64_t begin, int64_t end) {
        for (int64_t part = begin; part < end; ++part) {
          const int64_t i = part / across, j = part % across;
          const int64_t row = o.rows * i / down, column = panels * j / across * column_step;
          const int64_t last_column = std::min(o.columns, panels * (j + 1) / across * column_step);
          Rectangle<T>(o, row, o.rows * (i + 1) / down - row, column, last_column - column).compute();
        }
      },
      1);
}

// Adds the upper half of a vector to the lower one, and of that again, until so many numbers are left.
template <typename T, int left, int half, int... i>
inline Vector<T> folded(const Vector<T> v, std::integer_sequence<int, i...> indices) {
  if constexpr (half < left)
    return v;
  else
    return folded<T, left, half / 2>(v + __builtin_shufflevector(v, v, (i ^ half)...), indices);
}

// Adds up each of `count` vectors, a power of two of them: halves of two go side by side into one as often as it takes.
template <typename T, int count>
inline Vector<T> sums_of(Vector<T> (&each)[count]) {
  constexpr int width = vector_width<T>;
  constexpr auto indices = std::make_integer_sequence<int, width>{};
  for (int half = count / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i)
      each[i] =
          zip<T, false>(each[i], each[i + half], indices) + zip<T, true>(each[i], each[i + half], indices);
  return folded<T, count, width / 2>(each[0], indices);
}

// x . rows[i] for some rows at once, a power of two of them; what is behind them in the result means nothing.
template <typename T, int rows>
inline Vector<T> dots(const T* x, const T* from, int64_t size) {
  using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  constexpr int64_t width = vector_width<T>;
  Vector<T> sum[rows] = {};
  const auto add = [&](int64_t l, auto keep) {
    const Vector<T> factor = keep(load(x + l));
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) sum[r] += factor * keep(load(from + r * size + l));
  };
  int64_t l = 0;
  for (; l + width <= size; l += width) add(l, [](Vector<T> v) { return v; });
  if (l < size) {  // the last ones once more, without those that have been added
    Bits kept[width];
    for (int64_t i = 0; i < width; ++i) kept[i] = i >= width - (size - l);
    typename VectorOf<Bits>::type mask;
    std::memcpy(&mask, kept, sizeof(mask));
    add(size - width, [&](Vector<T> v) { return mask != 0 ? v : Vector<T>{}; });
  }
  return sums_of<T>(sum);
}

// out[i] = x . rows[i] for so many of them at once, and fewer as long as some are left.
template <typename T, int together = vector_width<T>>
void dots_of_rows(const T* x, const T* from, int64_t rows, int64_t size, T* out) {
  for (; rows >= together; rows -= together, from += together * size, out += together) {
    const Vector<T> sums = dots<T, together>(x, from, size);
    std::memcpy(out, &sums, together * sizeof(T));
  }
  if constexpr (together > 1) dots_of_rows<T, together / 2>(x, from, rows, size, out);
}

// A row times a matrix, (columns, depth) if it is transposed.
template <typename T>
void multiply_row(const T* x, const T* matrix, int64_t columns, int64_t depth, bool transposed, T* out) {
  constexpr int64_t width = vector_width<T>, wide = 8 * width;
  const auto range = [&](int, int64_t begin, int64_t end) {
    int64_t j = begin;
    if (transposed && depth >= width)
      return dots_of_rows(x, matrix + begin * depth, end - begin, depth, out + begin);
    const int64_t line = transposed ? depth : 1, step = transposed ? 1 : columns;
    const auto tile = [&](auto multiplies, int64_t column) {
      multiplies(x, 0, 1, matrix + column, columns, depth, false, out + column, 0);
    };
    if (!transposed) {
      for (; j + wide <= end; j += wide) tile(matmul_tile<T, 8, 1>, j);
      for (; j + width <= end; j += width) tile(matmul_tile<T, 1, 1>, j);
      if (j < end && end - begin >= width) return tile(matmul_tile<T, 1, 1>, end - width);
    }
    for (; j < end; ++j) {
      T sum = 0;
      for (int64_t l = 0; l < depth; ++l) sum += x[l] * matrix[j * line + l * step];
      out[j] = sum;
    }
  };
  parallel_ranges(columns, threads_for(columns * depth), range, wide);
}

// A column times a row.
template <typename T>
void multiply_column(const T* column, const T* row, int64_t rows, int64_t columns, T* out) {
  parallel_ranges(
      rows, threads_for(rows * columns),
      [&](int, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const T factor = column[i];
          T* __restrict to = out + i * columns;
#pragma omp simd
          for (int64_t j = 0; j < columns; ++j) to[j] = factor * row[j];
        }
      },
      1);
}

// Whether the BLAS is the faster one. Every call of it costs as much as some thousands of multiplications, and a result of
// few columns or rows is not what it is made for.
template <typename T>
bool takes_blas(const MatMul<T>& o) {
  if (matmul_backend_in_use == MatMulBackend::own || !has_blas()) return false;
  if (std::max({o.m, o.n, o.k}) > std::numeric_limits<int>::max()) return false;
  if (matmul_backend_in_use == MatMulBackend::blas) return true;
  constexpr bool has_wide_vectors = vector_bytes > 16;
  if (has_wide_vectors && processor_is_not_intels()) return false;
  constexpr double few = has_wide_vectors ? 1 << 18 : 1 << 15;
  constexpr int64_t thin = has_wide_vectors ? vector_width<T> : 1;
  return std::min(o.m, o.n) > thin && static_cast<double>(o.m) * static_cast<double>(o.n * o.k) > few;
}

}  // namespace

template <typename T>
void matmul(const MatMul<T>& o) {
  if (o.m == 0 || o.n == 0) return;
  if (o.k == 0) {
    std::fill_n(o.out, o.m * o.n, T(0));
    return;
  }
  if (takes_blas(o)) return blas_matmul(o);
  if (o.k == 1) return multiply_column(o.a, o.b, o.m, o.n, o.out);
  if (o.m == 1) return multiply_row(o.a, o.b, o.n, o.k, o.transpose_b, o.out);
  if (o.n == 1) return multiply_row(o.b, o.a, o.m, o.k, !o.transpose_a, o.out);
  const Arrangement<T> as_it_is{o.m,
                                o.n,
                                o.k,
                                o.a,
                                o.transpose_a ? 1 : o.k,
                                o.transpose_a ? o.m : 1,
                                o.b,
                                o.transpose_b ? o.k : o.n,
                                o.transpose_b,
                                o.out,
                                o.n,
                                false};
  const Arrangement<T> turned{o.n,
                              o.m,
                              o.k,
                              o.b,
                              o.transpose_b ? o.k : 1,
                              o.transpose_b ? 1 : o.n,
                              o.a,
                              o.transpose_a ? o.m : o.k,
                              !o.transpose_a,
                              o.out,
                              o.n,
                              true};
  const bool turns = !is_read_by_rows(as_it_is) && cost_of(turned, o.n, o.m) < cost_of(as_it_is, o.m, o.n);
  multiply(turns ? turned : as_it_is);
}

ALTMIN_INSTANTIATE(matmul, void, MatMul)

}  // namespace altmin::cpu::ALTMIN_ISA
