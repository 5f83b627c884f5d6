// Scalar functions that compilers turn into vector code: no branches, no library calls.
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

// exp(x) for x <= 0 to about 2 units in the last place: exp(x) = 2^n exp(r), |r| <= ln(2)/2, Taylor to degree 7.
inline float exp_of_negative(float x) {
    x = x < -87.0f ? -87.0f : x;
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it leaves the rounded integer in the low mantissa bits
    const float shifted = x * 1.44269504f + magic;
    const float n = shifted - magic;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const uint32_t exponent = (std::bit_cast<uint32_t>(shifted) << 23) + 0x3f800000u;
    return p * std::bit_cast<float>(exponent);
}

inline float absolute(float x) { return x < 0.0f ? -x : x; }

}  // namespace spimm
