// When to go past the caches, and what large fresh memory costs.
#pragma once

#include <cstdint>
#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace spimm {

inline int64_t last_level_cache() {
#if defined(_SC_LEVEL3_CACHE_SIZE)
    static const int64_t size = sysconf(_SC_LEVEL3_CACHE_SIZE);
    if (size > 0) return size;
#endif
    return 32 << 20;
}

// Whether an output of so many bytes is better written past the caches.
inline bool streams(int64_t bytes) { return bytes > last_level_cache(); }

// Asks for large pages under memory that may be fresh from the system: a page fault costs more than filling 4 KB.
inline void prefer_large_pages(void *begin, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
    constexpr uintptr_t page = 2 << 20;
    if (begin == nullptr || bytes < 2 * static_cast<int64_t>(page)) return;
    const uintptr_t from = (reinterpret_cast<uintptr_t>(begin) + page - 1) / page * page;
    const uintptr_t to = (reinterpret_cast<uintptr_t>(begin) + bytes) / page * page;
    if (from < to) madvise(reinterpret_cast<void *>(from), to - from, MADV_HUGEPAGE);
#endif
}

}  // namespace spimm
