// One register of floats (GCC's and Clang's vector extension), and what has no operator: loads and stores of either
// storage, of part of a register, and past the caches. Included by files that are compiled once per instruction set.
#pragma once

#include "vector_math.h"

#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace spimm::SPIMM_ISA {

#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX2__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * lanes)));
typedef int32_t Mask __attribute__((vector_size(4 * lanes)));  // what a comparison gives: all bits of a lane, or none
typedef uint32_t Words __attribute__((vector_size(4 * lanes)));
typedef uint16_t Halves __attribute__((vector_size(2 * lanes)));

inline Vec all(float value) { return Vec{} + value; }
inline Vec spread(float value) { return value - Vec{}; }  // as `all`, -0 and all: one instruction with a value from memory

// a b + c, rounded once where the processor can.
inline Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
    return static_cast<Vec>(_mm512_fmadd_ps(a, b, c));
#elif defined(__AVX2__)
    return static_cast<Vec>(_mm256_fmadd_ps(a, b, c));
#else
    return a * b + c;
#endif
}

// 1 / x to about 1 unit in the last place, for 1e-30 < x < 1e30.
inline Vec reciprocal(Vec x) {
#if defined(__AVX512F__)
    const Vec r = static_cast<Vec>(_mm512_maskz_rcp14_ps(0xffff, x));
    return r * (2.0f - x * r);
#else
    return 1.0f / x;
#endif
}
inline float reciprocal(float x) { return 1.0f / x; }

// 1 / x for x > 0, within 2^-14 of it: enough for what is stored as bfloat16. 0 for infinity.
inline Vec rough_reciprocal(Vec x) {
#if defined(__AVX512F__)
    return static_cast<Vec>(_mm512_maskz_rcp14_ps(0xffff, x));
#else
    return 1.0f / x;
#endif
}

template <class V> struct IntegersOf { using type = decltype(V{} < V{}); };  // of a vector: as wide as its floats
template <> struct IntegersOf<float> { using type = int32_t; };

template <class V> inline V absolute(V x) {
    using Integers = typename IntegersOf<V>::type;
    return std::bit_cast<V>(std::bit_cast<Integers>(x) & 0x7fffffff);
}

// The larger of the two; NaN if x is.
inline Vec at_least(Vec lowest, Vec x) {
#if defined(__AVX512F__)
    return static_cast<Vec>(_mm512_max_ps(lowest, x));
#elif defined(__AVX2__)
    return static_cast<Vec>(_mm256_max_ps(lowest, x));
#else
    return x < lowest ? lowest : x;
#endif
}
inline float at_least(float lowest, float x) { return x < lowest ? lowest : x; }

// The smaller of the two; NaN if x is.
inline Vec at_most(float highest, Vec x) {
#if defined(__AVX512F__)
    return static_cast<Vec>(_mm512_min_ps(all(highest), x));
#elif defined(__AVX2__)
    return static_cast<Vec>(_mm256_min_ps(all(highest), x));
#else
    return x > highest ? all(highest) : x;
#endif
}
inline float at_most(float highest, float x) { return x > highest ? highest : x; }

// 2^x for x <= 0 to about 2 units in the last place: 2^n p(x - n), n the nearest integer, p minimax of degree 5.
// Below 2^-125 it stays there; NaN stays NaN.
template <class V> inline V power_of_two(V x) {
    using Integers = typename IntegersOf<V>::type;
    const V magic = V{} + 12582912.0f;  // 1.5 * 2^23: adding it leaves n in the low mantissa bits
    x = at_least(V{} - 125.0f, x);
    const V shifted = x + magic, f = x - (shifted - magic);
    V p = f * 1.3276461e-3f + 9.6755410e-3f;
    p = p * f + 5.5507135e-2f;
    p = p * f + 2.4022120e-1f;
    p = p * f + 6.9314694e-1f;
    p = p * f + 1.0f;
    return std::bit_cast<V>(std::bit_cast<Integers>(p) + (std::bit_cast<Integers>(shifted) << 23));
}

inline float sum(Vec v) {
    float total = 0.0f;
    for (int i = 0; i < lanes; ++i) total += v[i];
    return total;
}

// GCC 12 makes several instructions of __builtin_convertvector where the processor has one.
inline Vec widen(Halves bits) {
#if defined(__AVX512F__)
    return std::bit_cast<Vec>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(std::bit_cast<__m256i>(bits)), 16));
#elif defined(__AVX2__)
    return std::bit_cast<Vec>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(std::bit_cast<__m128i>(bits)), 16));
#else
    return std::bit_cast<Vec>(__builtin_convertvector(bits, Words) << 16);
#endif
}

inline Halves low_halves(Words words) {
#if defined(__AVX512F__)
    return std::bit_cast<Halves>(_mm512_cvtepi32_epi16(std::bit_cast<__m512i>(words)));
#else
    return __builtin_convertvector(words, Halves);
#endif
}

inline Halves narrow(Vec value) {  // as store<bfloat16>
    const Words bits = std::bit_cast<Words>(value);
    const Words rounded = bits + ((bits >> 16) & 1u) + 0x7fffu;
    const Words kept = value == value ? rounded : Words{} + 0x7fc00000u;
    return low_halves(kept >> 16);
}

// The value that a store and a load make of it.
template <class S> inline Vec as_stored(Vec value);
template <> inline Vec as_stored<float>(Vec value) { return value; }
template <> inline Vec as_stored<bfloat16>(Vec value) { return widen(narrow(value)); }

inline Vec load_vec(const float *from) {
    Vec value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline Vec load_vec(const bfloat16 *from) {
    Halves bits;
    std::memcpy(&bits, from, sizeof bits);
    return widen(bits);
}

// The first `count` elements, then zeros.
inline Vec load_vec(const float *from, int64_t count) {
#if defined(__AVX512F__)
    return static_cast<Vec>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1u), from));
#else
    Vec value{};
    std::memcpy(&value, from, count * sizeof(float));
    return value;
#endif
}

inline Vec load_vec(const bfloat16 *from, int64_t count) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    return widen(std::bit_cast<Halves>(_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << count) - 1u), from)));
#else
    Halves bits{};
    std::memcpy(&bits, from, count * sizeof(bfloat16));
    return widen(bits);
#endif
}

inline void store_vec(float *to, Vec value) { std::memcpy(to, &value, sizeof value); }

inline void store_vec(bfloat16 *to, Vec value) {
    const Halves bits = narrow(value);
    std::memcpy(to, &bits, sizeof bits);
}

inline void store_vec(float *to, Vec value, int64_t count) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1u), value);
#else
    std::memcpy(to, &value, count * sizeof(float));
#endif
}

inline void store_halves(bfloat16 *to, Halves bits, int64_t count) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    _mm256_mask_storeu_epi16(to, static_cast<__mmask16>((1u << count) - 1u), std::bit_cast<__m256i>(bits));
#else
    std::memcpy(to, &bits, count * sizeof(bfloat16));
#endif
}

inline void store_vec(bfloat16 *to, Vec value, int64_t count) { store_halves(to, narrow(value), count); }

// Past the caches: no line is read first and none is pushed out. `to` is aligned to the size of what is stored.
inline void stream_vec(float *to, Vec value) {
#if defined(__AVX512F__)
    _mm512_stream_ps(to, value);
#elif defined(__AVX2__)
    _mm256_stream_ps(to, value);
#else
    store_vec(to, value);
#endif
}

inline void stream_halves(bfloat16 *to, Halves bits) {
#if defined(__AVX512F__)
    _mm256_stream_si256(reinterpret_cast<__m256i *>(to), std::bit_cast<__m256i>(bits));
#elif defined(__AVX2__)
    _mm_stream_si128(reinterpret_cast<__m128i *>(to), std::bit_cast<__m128i>(bits));
#else
    std::memcpy(to, &bits, sizeof bits);
#endif
}
inline void stream_vec(bfloat16 *to, Vec value) { stream_halves(to, narrow(value)); }

inline void end_of_streaming() {
#if defined(__AVX2__)
    _mm_sfence();
#endif
}

}  // namespace spimm::SPIMM_ISA
