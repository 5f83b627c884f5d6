// Linear spiking self-attention, y = scale q (k^T v): a head's d x d matrices stay in the nearest cache, and what is 0 in
// q, k and v (and in the gradient of y) is skipped. Operands that are hardly sparse take a dense product instead.
#include "spike_attention.h"
#include "aligned.h"
#include "events.h"
#include "neuron_steps.h"

namespace spimm::SPIMM_ISA {

constexpr int64_t tokens_per_chunk = 256;
constexpr int widest = 4;                        // registers of a row that are worked on together
constexpr int block_rows = lanes == 16 ? 4 : 2;  // of a dense product; block_rows * widest sums fit the registers
constexpr float sparse_share = 0.4f;             // of values that are not 0, up to which they are taken one by one

template <class S> static inline void prefetch_row(const S *row, int64_t size) {
    const char *from = reinterpret_cast<const char *>(row);
    for (int64_t byte = 0; byte < size * static_cast<int64_t>(sizeof(S)); byte += 64) __builtin_prefetch(from + byte, 0, 2);
}

// The channels of one head for a chunk of tokens: as rows of floats, padded with zeros to whole registers, and as the
// list of what is not 0. `finite`: no value is NaN or infinite, so that 0 times it is 0 and may be skipped.
struct Operand {
    int64_t size, stride, tokens = 0, count = 0;
    bool binary = true, finite = true;
    Aligned<float> rows, value;
    Aligned<uint32_t> begin, index;

    Operand(int64_t max_tokens, int64_t size)
        : size(size), stride(padded(size)), rows(aligned<float>(max_tokens * stride)),
          value(aligned<float>(max_tokens * stride + lanes)), begin(aligned<uint32_t>(max_tokens + 1)),
          index(aligned<uint32_t>(max_tokens * stride + lanes)) {}

    bool sparse() const { return count <= sparse_share * static_cast<float>(tokens * size); }

    // `step` values lie between the tokens. Asks for the same rows `ahead` values on: they lie on as many pages as there
    // are tokens, which the processor does not foresee.
    template <bool listed, class S> void read(const S *from, int64_t num_tokens, int64_t step, int64_t ahead) {
        tokens = num_tokens;
        EventList events{value.get(), index.get()};
        Vec check{};
        for (int64_t token = 0; token < tokens; ++token) {
            const S *row = from + token * step;
            prefetch_row(row + ahead, size);
            begin[token] = static_cast<uint32_t>(events.count);
            for_each_register(size, [&](int64_t i, auto n) {
                const Vec values = load_vec(row + i, n);
                store_vec(rows.get() + token * stride + i, values);
                check = fma(values, Vec{}, check);
                if constexpr (listed) events.append(values, static_cast<uint32_t>(i));
            });
        }
        begin[tokens] = static_cast<uint32_t>(events.count);
        count = events.count;
        binary = events.binary;
        finite = sum(check) == 0.0f;
    }
};

// A head's d x d sums, rows padded as an operand's.
struct Matrix {
    int64_t size, stride;
    Aligned<float> values;
    bool finite = true;  // as of an operand

    explicit Matrix(int64_t size) : size(size), stride(padded(size)), values(aligned<float>(size * stride)) {}

    void clear() { std::fill_n(values.get(), size * stride, 0.0f), finite = true; }
    void transpose(const Matrix &from) {
        finite = from.finite;
        for (int64_t i = 0; i < size; ++i)
            for (int64_t j = 0; j < stride; ++j)
                values[i * stride + j] = j < size ? from.values[j * stride + i] : 0.0f;
    }
};

// Calls f<width>(first column) for blocks of columns of at most `widest` registers.
template <class F> static void for_each_block(int64_t stride, const F &f) {
    for (int64_t first = 0; first < stride; first += widest * lanes) switch ((stride - first) / lanes) {
        case 1: f.template operator()<1>(first); break;
        case 2: f.template operator()<2>(first); break;
        case 3: f.template operator()<3>(first); break;
        default: f.template operator()<widest>(first);
        }
}

// For count rows from `row`: store(row, sum over j < depth of left[row * row_step + j * step] right[j]).
template <int width, int count, class Store>
static inline void dense_rows(const float *left, int64_t row, int64_t row_step, int64_t step, int64_t depth, const float *right,
                              int64_t stride, const Store &store) {
    Vec sum[count][width] = {};
    for (int64_t j = 0; j < depth; ++j)
        for (int r = 0; r < count; ++r)
            for (int i = 0; i < width; ++i)
                sum[r][i] = fma(all(left[(row + r) * row_step + j * step]), load_vec(right + j * stride + i * lanes), sum[r][i]);
    for (int r = 0; r < count; ++r) store(row + r, sum[r]);
}

template <int width, class Store>
static void dense_product(const float *left, int64_t rows, int64_t row_step, int64_t step, int64_t depth, const float *right,
                          int64_t stride, const Store &store) {
    int64_t row = 0;
    for (; row + block_rows <= rows; row += block_rows)
        dense_rows<width, block_rows>(left, row, row_step, step, depth, right, stride, store);
    for (; row < rows; ++row) dense_rows<width, 1>(left, row, row_step, step, depth, right, stride, store);
}

template <int width, bool binary>
static void add_events(const Operand &x, const float *rows, float *sums) {
    for (int64_t token = 0; token < x.tokens; ++token) {
        Vec row[width];
        for (int i = 0; i < width; ++i) row[i] = load_vec(rows + token * x.stride + i * lanes);
        for (uint32_t e = x.begin[token]; e < x.begin[token + 1]; ++e) {
            float *to = sums + x.index[e] * x.stride;
            for (int i = 0; i < width; ++i) {
                const Vec before = load_vec(to + i * lanes);
                store_vec(to + i * lanes, binary ? before + row[i] : fma(all(x.value[e]), row[i], before));
            }
        }
    }
}

// sums += x^T y
static void add_outer(const Operand &x, const Operand &y, Matrix &sums) {
    sums.finite &= x.finite && y.finite;
    for_each_block(x.stride, [&]<int width>(int64_t first) {
        const float *rows = y.rows.get() + first;
        float *to = sums.values.get() + first;
        const auto add = [&](int64_t row, const Vec(&sum)[width]) {
            float *at = to + row * x.stride;
            for (int i = 0; i < width; ++i) store_vec(at + i * lanes, load_vec(at + i * lanes) + sum[i]);
        };
        if (!x.sparse() || !y.finite)
            dense_product<width>(x.rows.get(), x.size, 1, x.stride, x.tokens, rows, x.stride, add);
        else if (x.binary)
            add_events<width, true>(x, rows, to);
        else
            add_events<width, false>(x, rows, to);
    });
}

template <int width, bool binary, class Store>
static void gather_events(const Operand &x, const float *matrix, const Store &store) {
    for (int64_t token = 0; token < x.tokens; ++token) {
        Vec sum[width] = {};
        for (uint32_t e = x.begin[token]; e < x.begin[token + 1]; ++e) {
            const float *row = matrix + x.index[e] * x.stride;
            for (int i = 0; i < width; ++i) {
                const Vec values = load_vec(row + i * lanes);
                sum[i] = binary ? sum[i] + values : fma(all(x.value[e]), values, sum[i]);
            }
        }
        store(token, sum);
    }
}

// to = scale x matrix; `step` values lie between its tokens.
template <class S> static void multiply(const Operand &x, const Matrix &matrix, float scale, S *to, int64_t step) {
    for_each_block(x.stride, [&]<int width>(int64_t first) {
        const float *right = matrix.values.get() + first;
        const auto store = [&](int64_t token, const Vec(&sum)[width]) {
            S *row = to + token * step + first;
            for (int i = 0; i < width; ++i) {
                const int64_t n = x.size - first - i * lanes;
                n >= lanes ? store_vec(row + i * lanes, scale * sum[i]) : store_vec(row + i * lanes, scale * sum[i], n);
            }
        };
        if (!x.sparse() || !matrix.finite)
            dense_product<width>(x.rows.get(), x.tokens, x.stride, 1, x.size, right, x.stride, store);
        else if (x.binary)
            gather_events<width, true>(x, right, store);
        else
            gather_events<width, false>(x, right, store);
    });
}

// Calls f(index of the first token, number of tokens) for each chunk of an image.
template <class F> static void for_each_chunk(int64_t tokens, const F &f) {
    for (int64_t first = 0; first < tokens; first += tokens_per_chunk) f(first, std::min(tokens_per_chunk, tokens - first));
}

// From the rows of a head to those of the next, where `step` values lie between tokens.
static int64_t to_next(const AttentionExtent &e, int64_t head, int64_t step) {
    const int64_t size = e.channels / e.heads;
    return (head + 1) % e.heads != 0 ? size : e.tokens * step - (e.heads - 1) * size;
}

template <class S>
static void forward(const S *qkv, S *y, const AttentionExtent &e, float scale, int num_threads) {
    const int64_t size = e.channels / e.heads, chunk = std::min(tokens_per_chunk, e.tokens), step = 3 * e.channels;
#pragma omp parallel num_threads(num_threads)
    {
        Operand x(chunk, size), v(chunk, size);
        Matrix kv(size);
#pragma omp for schedule(static)
        for (int64_t head = 0; head < e.images * e.heads; ++head) {
            const int64_t first = head / e.heads * e.tokens, channel = head % e.heads * size, ahead = to_next(e, head, step);
            const auto at = [&](int64_t token, int64_t part) {
                return qkv + ((first + token) * 3 + part) * e.channels + channel;
            };
            kv.clear();
            for_each_chunk(e.tokens, [&](int64_t token, int64_t tokens) {
                x.read<true>(at(token, 1), tokens, step, ahead);
                v.read<false>(at(token, 2), tokens, step, ahead);
                add_outer(x, v, kv);
            });
            for_each_chunk(e.tokens, [&](int64_t token, int64_t tokens) {
                x.read<true>(at(token, 0), tokens, step, ahead);
                multiply(x, kv, scale, y + (first + token) * e.channels + channel, e.channels);
            });
        }
    }
}

template <class S>
static void backward(const S *qkv, const S *grad_y, S *grad_qkv, const AttentionExtent &e, float scale, int num_threads) {
    const int64_t size = e.channels / e.heads, chunk = std::min(tokens_per_chunk, e.tokens), step = 3 * e.channels;
#pragma omp parallel num_threads(num_threads)
    {
        Operand q(chunk, size), k(chunk, size), v(chunk, size), grad(chunk, size);
        Matrix kv(size), grad_kv(size), transposed(size);
#pragma omp for schedule(static)
        for (int64_t head = 0; head < e.images * e.heads; ++head) {
            const int64_t first = head / e.heads * e.tokens, channel = head % e.heads * size, ahead = to_next(e, head, step);
            const auto at = [&](auto *values, int64_t token, int64_t part) {
                return values + ((first + token) * 3 + part) * e.channels + channel;
            };
            const auto read = [&](int64_t token, int64_t tokens) {
                q.read<true>(at(qkv, token, 0), tokens, step, ahead);
                k.read<true>(at(qkv, token, 1), tokens, step, ahead);
                v.read<true>(at(qkv, token, 2), tokens, step, ahead);
                grad.read<true>(grad_y + (first + token) * e.channels + channel, tokens, e.channels,
                                to_next(e, head, e.channels));
            };
            const bool again = e.tokens > chunk;  // one chunk stays as it was read
            kv.clear();
            grad_kv.clear();
            for_each_chunk(e.tokens, [&](int64_t token, int64_t tokens) {
                read(token, tokens);
                add_outer(k, v, kv);
                add_outer(q, grad, grad_kv);
            });
            transposed.transpose(kv);
            kv.transpose(grad_kv);
            const Matrix &kv_transposed = transposed, &grad_kv_transposed = kv;
            for_each_chunk(e.tokens, [&](int64_t token, int64_t tokens) {
                if (again) read(token, tokens);
                multiply(grad, kv_transposed, scale, at(grad_qkv, token, 0), step);
                multiply(v, grad_kv_transposed, scale, at(grad_qkv, token, 1), step);
                multiply(k, grad_kv, scale, at(grad_qkv, token, 2), step);
            });
        }
    }
}

static void any_forward(Storage storage, const void *qkv, void *y, const AttentionExtent &e, float scale, int num_threads) {
    if (storage == Storage::float32)
        forward(static_cast<const float *>(qkv), static_cast<float *>(y), e, scale, num_threads);
    else
        forward(static_cast<const bfloat16 *>(qkv), static_cast<bfloat16 *>(y), e, scale, num_threads);
}

static void any_backward(Storage storage, const void *qkv, const void *grad_y, void *grad_qkv, const AttentionExtent &e,
                         float scale, int num_threads) {
    if (storage == Storage::float32)
        backward(static_cast<const float *>(qkv), static_cast<const float *>(grad_y), static_cast<float *>(grad_qkv), e, scale,
                 num_threads);
    else
        backward(static_cast<const bfloat16 *>(qkv), static_cast<const bfloat16 *>(grad_y), static_cast<bfloat16 *>(grad_qkv), e,
                 scale, num_threads);
}

extern const AttentionKernels spike_attention_kernels;
const AttentionKernels spike_attention_kernels{any_forward, any_backward};

}  // namespace spimm::SPIMM_ISA
