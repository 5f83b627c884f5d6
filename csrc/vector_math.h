// How stored values become floats and back, one at a time.
#pragma once

#include "storage.h"

#include <bit>
#include <cstdint>

namespace spimm {

struct bfloat16 { uint16_t bits; };

// Calls f with a value of the type that is stored.
template <class F> void with_storage(Storage storage, const F &f) {
    storage == Storage::float32 ? f(float{}) : f(bfloat16{});
}

inline float load(float value) { return value; }
inline float load(bfloat16 value) { return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16); }

template <class S> inline S store(float value);
template <> inline float store<float>(float value) { return value; }
template <> inline bfloat16 store<bfloat16>(float value) {  // round to nearest even; NaN stays NaN
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return {static_cast<uint16_t>(value != value ? 0x7fc0u : rounded)};
}

}  // namespace spimm
