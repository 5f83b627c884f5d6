// How values are stored; arithmetic is float whatever the storage.
#pragma once

#include <cstdint>

namespace spimm {

enum class Storage : int { float32 = 0, bfloat16 = 1 };

}  // namespace spimm
