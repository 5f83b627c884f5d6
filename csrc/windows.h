// Where the windows of a 3x3 pool of stride 2 and padding 1 lie, and tiles of them. Included by files that are compiled once
// per instruction set.
#pragma once

#include "pool.h"
#include "neuron_steps.h"

namespace spimm::SPIMM_ISA {

// Tiles hold whole pixels, each `stride` floats long.
struct Pooling {
    int64_t height, width, stride, columns, tiles_per_row, num_tiles, size;

    explicit Pooling(const PoolExtent &extent)
        : height((extent.height + 1) / 2), width((extent.width + 1) / 2), stride(padded(extent.channels)),
          columns(std::clamp<int64_t>(tile_target / stride, 1, width)), tiles_per_row((width + columns - 1) / columns),
          num_tiles(extent.images * height * tiles_per_row), size(columns * stride) {}
};

struct PooledTile {
    int64_t image, row, first, columns, pixel;  // pixel: of the first, within a step

    PooledTile(const Pooling &pooling, int64_t tile)
        : image(tile / (pooling.height * pooling.tiles_per_row)), row(tile / pooling.tiles_per_row % pooling.height),
          first(tile % pooling.tiles_per_row * pooling.columns), columns(std::min(pooling.columns, pooling.width - first)),
          pixel((image * pooling.height + row) * pooling.width + first) {}
};

// Where the nine elements of a window are, row by row. One outside of the image is replaced by the nearest inside, which
// leaves the first maximum as it is; `number` tells which it is really.
struct Window {
    int64_t offset[9];
    uint32_t number[9];

    Window(const PoolExtent &extent, int64_t row, int64_t column) {
        for (int64_t k = 0; k < 9; ++k) {
            const int64_t top = 2 * row - 1, left = 2 * column - 1;
            const int64_t y = std::clamp<int64_t>(top + k / 3, 0, extent.height - 1);
            const int64_t x = std::clamp<int64_t>(left + k % 3, 0, extent.width - 1);
            offset[k] = (y * extent.width + x) * extent.channels;
            number[k] = static_cast<uint32_t>((y - top) * 3 + x - left);
        }
    }
};

// The one or two windows along an axis that a pixel lies in, and where in them.
struct Covering {
    int64_t count, window[2], place[2];

    Covering(int64_t i, int64_t num_windows)
        : count(i % 2 == 1 && (i + 1) / 2 < num_windows ? 2 : 1), window{i / 2, (i + 1) / 2}, place{1 + i % 2, 0} {}
};

}  // namespace spimm::SPIMM_ISA
