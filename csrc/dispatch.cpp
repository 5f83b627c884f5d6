// Chooses, once, the build of the kernels for the instruction set of this processor.
#include "kernels.h"

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

namespace spimm {

#ifdef SPIMM_HAS_AVX512
namespace avx512 { extern const Kernels table; }
#endif
#ifdef SPIMM_HAS_AVX2
namespace avx2 { extern const Kernels table; }
#endif
namespace baseline { extern const Kernels table; }

static std::vector<const Kernels *> runnable() {
    std::vector<const Kernels *> found;
#ifdef SPIMM_HAS_AVX512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        found.push_back(&avx512::table);
#endif
#ifdef SPIMM_HAS_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&avx2::table);
#endif
    found.push_back(&baseline::table);
    return found;
}

static const Kernels &choose() {
    const std::vector<const Kernels *> found = runnable();
    const char *wanted = std::getenv("SPIMM_CPU_ISA");
    if (wanted == nullptr || *wanted == '\0') return *found.front();
    std::string names;
    for (const Kernels *build : found) {
        if (std::string(wanted) == build->name) return *build;
        names += std::string(names.empty() ? "" : ", ") + build->name;
    }
    throw std::invalid_argument("SPIMM_CPU_ISA=" + std::string(wanted) + ": this processor and build run " + names);
}

const Kernels &kernels() {
    static const Kernels &chosen = choose();
    return chosen;
}

}  // namespace spimm
