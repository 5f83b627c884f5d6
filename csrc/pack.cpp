#include "pack.h"
#include "vectors.h"

#include <algorithm>
#include <vector>

#include <omp.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace spimm::SPIMM_ISA {

constexpr int64_t chunk = 4096;  // values

template <class F> static void in_chunks(int64_t size, int num_threads, const F &f) {
#pragma omp parallel for num_threads(num_threads) schedule(static)
    for (int64_t begin = 0; begin < size; begin += chunk) f(begin, std::min(size, begin + chunk));
}

#if defined(__AVX512F__)
static inline void store16_ones(float *to, __mmask16 mask) { _mm512_storeu_ps(to, _mm512_maskz_mov_ps(mask, _mm512_set1_ps(1.0f))); }
static inline void store16_ones(bfloat16 *to, __mmask16 mask) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), _mm256_maskz_mov_epi16(mask, _mm256_set1_epi16(0x3f80)));
}
#endif

template <class S> static int bits_needed(const S *x, int64_t size, int num_threads) {
    int bits = 1;
#pragma omp parallel for num_threads(num_threads) schedule(static) reduction(max : bits)
    for (int64_t begin = 0; begin < size; begin += chunk) {
        const int64_t end = std::min(size, begin + chunk);
        int32_t largest = 0, odd = 0;
        for (int64_t i = begin; i < end; ++i) {
            const float value = load(x[i]);
            const int32_t whole = value >= 0.0f && value <= 255.0f ? static_cast<int32_t>(value) : 0;
            odd |= static_cast<float>(whole) != value;
            largest = std::max(largest, whole);
        }
        bits = std::max(bits, odd ? 9 : largest < 2 ? 1 : largest < 4 ? 2 : largest < 16 ? 4 : 8);
    }
    return bits > 8 ? 0 : bits;
}

template <class S, int bits> static void pack(const S *x, int64_t size, uint8_t *packed, int num_threads) {
    constexpr int64_t per_byte = 8 / bits;
    in_chunks(size, num_threads, [&](int64_t begin, int64_t end) {
        int64_t i = begin;
#if defined(__AVX512F__)
        if constexpr (bits == 1)
            for (; i + 16 <= end; i += 16) {
                const __mmask16 mask = _mm512_cmp_ps_mask(load_vec(x + i), _mm512_setzero_ps(), _CMP_NEQ_UQ);
                packed[i / 8] = static_cast<uint8_t>(mask);
                packed[i / 8 + 1] = static_cast<uint8_t>(mask >> 8);
            }
#endif
        for (; i < end; i += per_byte) {
            uint32_t byte = 0;
            for (int64_t k = 0; k < per_byte && i + k < end; ++k) byte |= static_cast<uint32_t>(load(x[i + k])) << (k * bits);
            packed[i / per_byte] = static_cast<uint8_t>(byte);
        }
    });
}

template <class S, int bits> static void unpack(const uint8_t *packed, int64_t size, S *x, int num_threads) {
    constexpr int64_t per_byte = 8 / bits;
    in_chunks(size, num_threads, [&](int64_t begin, int64_t end) {
        int64_t i = begin;
#if defined(__AVX512F__)
        if constexpr (bits == 1)
            for (; i + 16 <= end; i += 16)
                store16_ones(x + i, static_cast<__mmask16>(packed[i / 8] | packed[i / 8 + 1] << 8));
#endif
        for (; i < end; i += per_byte)
            for (int64_t k = 0; k < per_byte && i + k < end; ++k)
                x[i + k] = store<S>(static_cast<float>(packed[i / per_byte] >> (k * bits) & ((1 << bits) - 1)));
    });
}

template <class F> static void with_bits(int bits, const F &f) {
    switch (bits) {
    case 1: return f.template operator()<1>();
    case 2: return f.template operator()<2>();
    case 4: return f.template operator()<4>();
    default: return f.template operator()<8>();
    }
}

static int any_bits_needed(Storage storage, const void *x, int64_t size, int num_threads) {
    int found = 0;
    with_storage(storage, [&](auto s) { found = bits_needed(static_cast<const decltype(s) *>(x), size, num_threads); });
    return found;
}

static void any_pack(Storage storage, const void *x, int64_t size, int bits, uint8_t *packed, int num_threads) {
    with_storage(storage, [&](auto s) {
        using S = decltype(s);
        with_bits(bits, [&]<int n>() { pack<S, n>(static_cast<const S *>(x), size, packed, num_threads); });
    });
}

static void any_unpack(Storage storage, const uint8_t *packed, int64_t size, int bits, void *x, int num_threads) {
    with_storage(storage, [&](auto s) {
        using S = decltype(s);
        with_bits(bits, [&]<int n>() { unpack<S, n>(packed, size, static_cast<S *>(x), num_threads); });
    });
}

extern const PackKernels pack_kernels;
const PackKernels pack_kernels{any_bits_needed, any_pack, any_unpack};

}  // namespace spimm::SPIMM_ISA
