// Scratch memory on the boundaries of cache lines: a register that crosses one costs two accesses.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace spimm {

struct FreeAligned {
    void operator()(void *values) const { ::operator delete[](values, std::align_val_t(64)); }
};
template <class S> using Aligned = std::unique_ptr<S[], FreeAligned>;

template <class S> inline Aligned<S> aligned(int64_t size) {
    return Aligned<S>(static_cast<S *>(::operator new[](std::max<int64_t>(size, 1) * sizeof(S), std::align_val_t(64))));
}

}  // namespace spimm
