// Arithmetic on floats and on vectors of floats alike: no branches, no library calls.
#pragma once

#include <bit>
#include <cstdint>

namespace spimm {

struct bfloat16 { uint16_t bits; };

inline float load(float value) { return value; }
inline float load(bfloat16 value) { return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16); }

template <class S> inline S store(float value);
template <> inline float store<float>(float value) { return value; }
template <> inline bfloat16 store<bfloat16>(float value) {  // round to nearest even; NaN stays NaN
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return {static_cast<uint16_t>(value != value ? 0x7fc0u : rounded)};
}

template <class V> struct IntegersOf { using type = decltype(V{} < V{}); };  // of a vector: as wide as its floats
template <> struct IntegersOf<float> { using type = int32_t; };

template <class V> inline V absolute(V x) {
    using Integers = typename IntegersOf<V>::type;
    return std::bit_cast<V>(std::bit_cast<Integers>(x) & 0x7fffffff);
}

// 2^x for x <= 0 to about 2 units in the last place: 2^n p(x - n), n the nearest integer, p minimax of degree 5.
// Below 2^-125 it stays there; NaN stays NaN.
template <class V> inline V power_of_two(V x) {
    using Integers = typename IntegersOf<V>::type;
    const V lowest = V{} - 125.0f, magic = V{} + 12582912.0f;  // 1.5 * 2^23: adding it leaves n in the low mantissa bits
    x = x < lowest ? lowest : x;
    const V shifted = x + magic, f = x - (shifted - magic);
    V p = f * 1.3276461e-3f + 9.6755410e-3f;
    p = p * f + 5.5507135e-2f;
    p = p * f + 2.4022120e-1f;
    p = p * f + 6.9314694e-1f;
    p = p * f + 1.0f;
    return std::bit_cast<V>(std::bit_cast<Integers>(p) + (std::bit_cast<Integers>(shifted) << 23));
}

template <class V> inline V exp_of_negative(V x) { return power_of_two(x * 1.44269504f); }

}  // namespace spimm
