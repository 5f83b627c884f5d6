// Small whole numbers in few bits: what a backward pass needs of a spike train.
#pragma once

#include "storage.h"

namespace spimm {

struct PackKernels {
    // The bits that hold every value, 1, 2, 4 or 8; 0 where some value is no whole number from 0 to 255.
    int (*bits_needed)(Storage, const void *x, int64_t size, int num_threads);
    // 8 / bits values a byte, the first in the lowest bits; the last byte is filled with 0.
    void (*pack)(Storage, const void *x, int64_t size, int bits, uint8_t *packed, int num_threads);
    void (*unpack)(Storage, const uint8_t *packed, int64_t size, int bits, void *x, int num_threads);
};

}  // namespace spimm
