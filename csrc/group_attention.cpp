// Softmax attention within groups of tokens, forward and backward. Compiled once per instruction set.
//
// Everything about one group and head lies in the nearest caches: its tokens are gathered into rows of floats, those that
// scores are made of also into columns, and the scores never reach memory.
#include "group_attention.h"
#include "aligned.h"
#include "vectors.h"

#include <algorithm>
#include <limits>
#include <omp.h>
#include <vector>

namespace spimm::SPIMM_ISA {

constexpr int side_by_side = 4;  // rows whose sums are in registers together

static int64_t whole_vectors(int64_t n) { return (n + lanes - 1) / lanes * lanes; }

// to(i, j) = sum over c of rows(i, c) columns(c, j), for `vectors` registers of j.
template <int vectors>
static void multiply(const float *rows, int64_t row_step, const float *columns, int64_t column_step, float *to, int64_t to_step,
                     int64_t count, int64_t depth) {
    for (int64_t i = 0; i < count; i += side_by_side) {
        const int64_t last = std::min<int64_t>(side_by_side, count - i) - 1;
        Vec sum[side_by_side][vectors] = {};
        for (int64_t c = 0; c < depth; ++c) {
            Vec column[vectors];
            for (int j = 0; j < vectors; ++j) column[j] = load_vec(columns + c * column_step + j * lanes);
            for (int r = 0; r < side_by_side; ++r) {
                const Vec value = all(rows[(i + std::min<int64_t>(r, last)) * row_step + c]);
                for (int j = 0; j < vectors; ++j) sum[r][j] = fma(value, column[j], sum[r][j]);
            }
        }
        for (int64_t r = 0; r <= last; ++r)
            for (int j = 0; j < vectors; ++j) store_vec(to + (i + r) * to_step + j * lanes, sum[r][j]);
    }
}

// The same for any number of elements of j, whole registers.
static void multiply(const float *rows, int64_t row_step, const float *columns, int64_t column_step, float *to, int64_t to_step,
                     int64_t count, int64_t depth, int64_t width) {
    int64_t j = 0;
    for (; j + 4 * lanes <= width; j += 4 * lanes) multiply<4>(rows, row_step, columns + j, column_step, to + j, to_step, count, depth);
    for (; j + 2 * lanes <= width; j += 2 * lanes) multiply<2>(rows, row_step, columns + j, column_step, to + j, to_step, count, depth);
    for (; j < width; j += lanes) multiply<1>(rows, row_step, columns + j, column_step, to + j, to_step, count, depth);
}

static void transpose(const float *from, int64_t from_step, float *to, int64_t to_step, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) to[j * to_step + i] = from[i * from_step + j];
}

// The first n lanes of x, and `rest` in the others.
static Vec first(Vec x, int64_t n, Vec rest) {
    Mask lane;
    for (int l = 0; l < lanes; ++l) lane[l] = l;
    return lane < static_cast<int32_t>(n) ? x : rest;
}

static Vec larger(Vec a, Vec b) { return a > b ? a : b; }

#if defined(__AVX512F__)
static float largest(Vec v) { return _mm512_reduce_max_ps(v); }
static float total(Vec v) { return _mm512_reduce_add_ps(v); }
#else
static float largest(Vec v) {
    float found = v[0];
    for (int l = 1; l < lanes; ++l) found = std::max(found, v[l]);
    return found;
}
static float total(Vec v) { return sum(v); }
#endif

static Vec exponential(Vec x) { return power_of_two(x * 1.44269504f); }  // x <= 0

// One group and head at a time: `count` tokens that are there, in order of their positions.
template <class S> struct Group {
    const GroupExtent &e;
    const int64_t breadth = whole_vectors(e.width), reach = whole_vectors(e.positions), size = e.positions * breadth;
    const int64_t square = e.positions * reach;
    Aligned<float> q = rows(), k = rows(), v = rows(), columns = aligned<float>(breadth * reach), map = aligned<float>(square), present = aligned<float>(reach);
    std::vector<int64_t> token, position;

    explicit Group(const GroupExtent &extent) : e(extent) { std::fill(columns.get(), columns.get() + breadth * reach, 0.0f); }

    Aligned<float> rows() const { return aligned<float>(size); }
    int64_t count() const { return static_cast<int64_t>(token.size()); }

    void enter(const int32_t *members) {
        token.clear(), position.clear();
        for (int64_t p = 0; p < e.positions; ++p)
            if (members[p] >= 0) token.push_back(members[p]), position.push_back(p);
    }
    // `of`: number of tensors of `heads` heads side by side, `which` of them.
    template <class X> X *at(X *array, int64_t image, int64_t i, int64_t head, int64_t which, int64_t of) const {
        return array + (((image * e.tokens + token[i]) * of + which) * e.heads + head) * e.width;
    }
    void gather(const S *array, float *to, int64_t image, int64_t head, int64_t which, int64_t of) const {
        for (int64_t i = 0; i < count(); ++i) {
            const S *from = at(array, image, i, head, which, of);
            for (int64_t c = 0; c < e.width; c += lanes)
                store_vec(to + i * breadth + c, load_vec(from + c, std::min<int64_t>(lanes, e.width - c)));
        }
    }
    void scatter(const float *from, S *array, int64_t image, int64_t head, int64_t which, int64_t of) const {
        for (int64_t i = 0; i < count(); ++i) {
            S *to = at(array, image, i, head, which, of);
            for (int64_t c = 0; c < e.width; c += lanes)
                store_vec(to + c, load_vec(from + i * breadth + c), std::min<int64_t>(lanes, e.width - c));
        }
    }
    void take(const S *qkv, int64_t image, int64_t head) {
        gather(qkv, q.get(), image, head, 0, e.inputs);
        gather(qkv, k.get(), image, head, e.inputs / 3, e.inputs);
        gather(qkv, v.get(), image, head, 2 * (e.inputs / 3), e.inputs);
    }
    // The attention map, softmax(scale q k^T + bias), zeros beyond the last token.
    void attend(const float *bias) {
        const int64_t n = count(), wide = whole_vectors(n);
        clear_beyond(n);
        transpose(k.get(), breadth, columns.get(), reach, n, e.width);
        multiply(q.get(), breadth, columns.get(), reach, map.get(), reach, n, e.width, wide);
        const Vec lowest = all(std::numeric_limits<float>::lowest()), scale = all(e.scale);
        for (int64_t i = 0; i < n; ++i) {
            float *row = map.get() + i * reach;
            const float *biases = bias_row(bias, i);
            Vec highest = lowest;
            for (int64_t j = 0; j < wide; j += lanes) {
                const Vec biased = fma(load_vec(row + j), scale, load_vec(biases + j, std::min<int64_t>(lanes, n - j)));
                store_vec(row + j, j + lanes > n ? first(biased, n - j, lowest) : biased);
                highest = larger(highest, load_vec(row + j));
            }
            const Vec top = all(largest(highest));
            Vec sums{};
            for (int64_t j = 0; j < wide; j += lanes) {
                const Vec power = exponential(load_vec(row + j) - top);
                store_vec(row + j, j + lanes > n ? first(power, n - j, Vec{}) : power);
                sums += load_vec(row + j);
            }
            const Vec share = all(1.0f / total(sums));
            for (int64_t j = 0; j < wide; j += lanes) store_vec(row + j, load_vec(row + j) * share);
        }
    }
    // The biases of query i and the keys that are there.
    const float *bias_row(const float *bias, int64_t i) {
        const float *row = bias + position[i] * e.positions;
        if (count() == e.positions) return row;
        for (int64_t j = 0; j < count(); ++j) present[j] = row[position[j]];
        return present.get();
    }
    // Columns of fewer tokens than the group before had.
    void clear_beyond(int64_t n) {
        for (int64_t c = 0; c < e.width; ++c) std::fill(columns.get() + c * reach + n, columns.get() + (c + 1) * reach, 0.0f);
    }
};

template <class S>
static void forward_of(const S *qkv, const float *bias, const int32_t *members, S *y, const GroupExtent &e, int num_threads) {
#pragma omp parallel num_threads(num_threads)
    {
        Group<S> group(e);
        const Aligned<float> out = group.rows();
#pragma omp for collapse(2) schedule(static)
        for (int64_t image = 0; image < e.images; ++image)
            for (int64_t g = 0; g < e.groups; ++g) {
                group.enter(members + g * e.positions);
                for (int64_t head = 0; head < e.heads; ++head) {
                    group.take(qkv, image, head);
                    group.attend(bias + head * e.positions * e.positions);
                    multiply(group.map.get(), group.reach, group.v.get(), group.breadth, out.get(), group.breadth, group.count(),
                             group.count(), group.breadth);
                    group.scatter(out.get(), y, image, head, 0, 1);
                }
            }
    }
}

template <class S>
static void backward_of(const S *qkv, const float *bias, const int32_t *members, const S *grad_y, S *grad_qkv, float *grad_bias,
                        const GroupExtent &e, int num_threads) {
    const int64_t biases = e.heads * e.positions * e.positions;
    std::vector<float> parts(num_threads * biases);
#pragma omp parallel num_threads(num_threads)
    {
        Group<S> group(e);
        float *mine = parts.data() + omp_get_thread_num() * biases;
        const int64_t reach = group.reach, breadth = group.breadth;
        const Aligned<float> gradient = group.rows(), to_q = group.rows(), to_k = group.rows(), to_v = group.rows();
        const Aligned<float> to_scores = aligned<float>(group.square), turned = aligned<float>(group.square);
#pragma omp for collapse(2) schedule(static)
        for (int64_t image = 0; image < e.images; ++image)
            for (int64_t g = 0; g < e.groups; ++g) {
                group.enter(members + g * e.positions);
                const int64_t n = group.count(), wide = whole_vectors(n);
                for (int64_t head = 0; head < e.heads; ++head) {
                    float *map = group.map.get(), *scores = to_scores.get();
                    group.take(qkv, image, head);
                    group.gather(grad_y, gradient.get(), image, head, 0, 1);
                    group.attend(bias + head * e.positions * e.positions);
                    transpose(map, reach, turned.get(), reach, n, n);
                    multiply(turned.get(), reach, gradient.get(), breadth, to_v.get(), breadth, n, n, breadth);
                    transpose(group.v.get(), breadth, group.columns.get(), reach, n, e.width);
                    multiply(gradient.get(), breadth, group.columns.get(), reach, scores, reach, n, e.width, wide);
                    for (int64_t i = 0; i < n; ++i) {
                        const float *row = map + i * reach;
                        float *to = scores + i * reach, *to_bias = mine + (head * e.positions + group.position[i]) * e.positions;
                        const bool complete = n == e.positions;
                        Vec products{};
                        for (int64_t j = 0; j < wide; j += lanes) products = fma(load_vec(row + j), load_vec(to + j), products);
                        const Vec mean = all(total(products));
                        for (int64_t j = 0; j < wide; j += lanes) store_vec(to + j, load_vec(row + j) * (load_vec(to + j) - mean));
                        for (int64_t j = 0; j < n && !complete; ++j) to_bias[group.position[j]] += to[j];
                        for (int64_t j = 0; j < n && complete; j += lanes) {
                            const int64_t there = std::min<int64_t>(lanes, n - j);
                            store_vec(to_bias + j, load_vec(to_bias + j, there) + load_vec(to + j), there);
                        }
                        for (int64_t j = 0; j < wide; j += lanes) store_vec(to + j, load_vec(to + j) * e.scale);
                    }
                    multiply(scores, reach, group.k.get(), breadth, to_q.get(), breadth, n, n, breadth);
                    transpose(scores, reach, turned.get(), reach, n, n);
                    multiply(turned.get(), reach, group.q.get(), breadth, to_k.get(), breadth, n, n, breadth);
                    if (e.inputs == 1)
                        for (int64_t i = 0; i < n * breadth; ++i) to_q[i] += to_k[i] + to_v[i];
                    group.scatter(to_q.get(), grad_qkv, image, head, 0, e.inputs);
                    if (e.inputs == 3) {
                        group.scatter(to_k.get(), grad_qkv, image, head, 1, 3);
                        group.scatter(to_v.get(), grad_qkv, image, head, 2, 3);
                    }
                }
            }
    }
    for (int64_t i = 0; i < biases; ++i) {
        grad_bias[i] = 0.0f;
        for (int thread = 0; thread < num_threads; ++thread) grad_bias[i] += parts[thread * biases + i];
    }
}

static void forward(Storage storage, const void *qkv, const float *bias, const int32_t *members, void *y, const GroupExtent &e,
                    int num_threads) {
    with_storage(storage, [&](auto s) {
        using S = decltype(s);
        forward_of(static_cast<const S *>(qkv), bias, members, static_cast<S *>(y), e, num_threads);
    });
}

static void backward(Storage storage, const void *qkv, const float *bias, const int32_t *members, const void *grad_y, void *grad_qkv,
                     float *grad_bias, const GroupExtent &e, int num_threads) {
    with_storage(storage, [&](auto s) {
        using S = decltype(s);
        backward_of(static_cast<const S *>(qkv), bias, members, static_cast<const S *>(grad_y), static_cast<S *>(grad_qkv), grad_bias, e,
                    num_threads);
    });
}

extern const GroupKernels group_attention_kernels;
const GroupKernels group_attention_kernels{forward, backward};

}  // namespace spimm::SPIMM_ISA
