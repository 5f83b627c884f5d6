// Convolutions of inputs that are not sparse: every product is made, in the order in which spike_conv.cpp adds the rows of
// its events. A product with 0 adds nothing, so both have the same bits. Included by files that are compiled once per
// instruction set.
#pragma once

#include "conv_blocks.h"
#include "neuron_steps.h"

namespace spimm::SPIMM_ISA {

constexpr int64_t panel_floats = 48 * 1024;  // of the input, taken at a time: they stay in the second-level cache

// Calls f.template operator()<width>() with the registers of output channels in a block: of 3, 2 and 1 what pads least.
template <class F> void with_dense_width(int64_t out_channels, const F &f) {
    const int64_t vectors = (out_channels + lanes - 1) / lanes;
    if (vectors == 1) return f.template operator()<1>();
    (vectors + 2) / 3 * 3 <= (vectors + 1) / 2 * 2 ? f.template operator()<3>() : f.template operator()<2>();
}
template <int width> constexpr int64_t most_pixels = lanes == 16 || width == 1 ? 8 : 12 / width;

// Calls f.template operator()<n>() for n from 1 to `most`.
template <int64_t most, class F> inline void with_pixels(int64_t n, const F &f) {
    if constexpr (most > 1)
        if (n < most) return with_pixels<most - 1>(n, f);
    f.template operator()<most>();
}

// Lines that a thread takes at a time, or part of one: all of its steps.
struct Panel { int64_t line, lines, column, columns; };

// Cuts `images` from `image` on into panels, about `least` or more of them.
template <class S> void cut(const ConvCall<S> &call, int64_t image, int64_t images, int64_t least, std::vector<Panel> &panels) {
    const ConvExtent &e = call.e;
    const int64_t floats = panel_floats / call.x_steps(), height = e.height, width = e.width;
    const int64_t from = image * height, all_lines = images * height;
    if (e.kernel == 1) {
        constexpr int64_t tile = 24;
        const int64_t wanted = std::min(floats / e.in_channels, (all_lines * width + least - 1) / least);
        const int64_t columns = std::max(tile, wanted / tile * tile), end = (from + all_lines) * width;
        for (int64_t column = from * width; column < end; column += columns)
            panels.push_back({0, 1, column, std::min(columns, end - column)});
        return;
    }
    const int64_t fitting = floats / ((width + e.kernel - 1) * e.in_channels) - (e.kernel - 1);
    const int64_t lines = std::max<int64_t>(1, std::min(fitting, (all_lines + least - 1) / least));
    for (int64_t line = from; line < from + all_lines; line += lines)
        panels.push_back({line, std::min(lines, from + all_lines - line), 0, width});
}

// The input of a panel as floats with kernel / 2 zeros at both ends of its lines, its steps `step` and its lines `pitch`
// apart; the lines around it are there as well.
template <class S> struct PanelInput {
    std::vector<float> copy;
    const float *data = nullptr;
    int64_t pitch = 0, step = 0;

    void fill(const ConvCall<S> &call, const Panel &panel) {
        const ConvExtent &e = call.e;
        const int64_t reach = e.kernel / 2, first = std::max<int64_t>(0, panel.line - reach), around = reach * e.in_channels;
        const int64_t end = std::min(e.images * e.height, panel.line + panel.lines + reach), size = panel.columns * e.in_channels;
        const S *from = call.x + (first * e.width + panel.column) * e.in_channels;
        const int64_t line_size = e.width * e.in_channels, step_size = call.pixels() * e.in_channels;
        if constexpr (sizeof(S) == sizeof(float))
            if (reach == 0) {
                data = from, pitch = line_size, step = step_size;
                return;
            }
        pitch = size + 2 * around, step = (end - first) * pitch;
        copy.resize(call.x_steps() * step);
        for (int64_t t = 0; t < call.x_steps(); ++t)
            for (int64_t line = 0; line < end - first; ++line) {
                float *to = copy.data() + t * step + line * pitch;
                std::fill(to, to + around, 0.0f);
                load_tile<S>(from + t * step_size, line * line_size, to + around, size);
                std::fill(to + around + size, to + pitch, 0.0f);
            }
        data = copy.data() + (panel.line - first) * pitch;
    }
};

// sum += the products of `count` inputs of each pixel, pixels `apart`, and as many rows of weights.
template <int64_t pixels, int width>
inline void add_products(Vec (&sum)[pixels][width], const float *x, int64_t apart, const float *rows, int64_t count) {
    for (int64_t k = 0; k < count; ++k, rows += width * lanes) {
        Vec weight[width];
        for (int j = 0; j < width; ++j) weight[j] = load_vec(rows + j * lanes);
        for (int64_t p = 0; p < pixels; ++p) {
            const Vec value = spread(x[p * apart + k]);
            for (int j = 0; j < width; ++j) sum[p][j] = fma(value, weight[j], sum[p][j]);
        }
    }
}

// One block of output channels of consecutive pixels of a line.
template <class S, int64_t pixels, int width>
inline void dense_tile(const ConvCall<S> &call, const PanelInput<S> &input, const Panel &panel, int64_t line, int64_t column,
                       const Blocks<float, width> &blocks, int64_t block) {
    const ConvExtent &e = call.e;
    const float *rows = blocks.rows_of(block), *bias = blocks.bias_of(block);
    const int64_t reach = e.kernel / 2, r = line % e.height, size = blocks.size, n = blocks.channels_of(block);
    const int64_t place = (line * e.width + column) * e.out_channels + block * size, step = call.pixels() * e.out_channels;
    Vec sum[pixels][width], v[pixels][width] = {};
    for (int64_t t = 0; t < std::max<int64_t>(1, call.num_steps); ++t) {
        if (t < call.x_steps()) {
            for (int64_t p = 0; p < pixels; ++p)
                for (int j = 0; j < width; ++j) sum[p][j] = load_vec(bias + j * lanes);
            for (int64_t d = std::max(-reach, -r); d <= std::min(reach, e.height - 1 - r); ++d) {
                const float *x = input.data + t * input.step + (line - panel.line + d) * input.pitch;
                add_products<pixels, width>(sum, x + (column - panel.column) * e.in_channels, e.in_channels,
                                            rows + (d + reach) * e.kernel * e.in_channels * size, e.kernel * e.in_channels);
            }
        }
        for (int64_t p = 0; p < pixels; ++p) {
            const int64_t to = t * step + place + p * e.out_channels;
            if (call.num_steps == 0)
                store_block<S, width>(sum[p], call.y + to, n);
            else
                fire_block<S, width>(call.neuron, v[p], sum[p], call.added == nullptr ? nullptr : call.added + to, call.y + to, n);
        }
    }
}

template <class S, int width>
void dense_panel(const ConvCall<S> &call, PanelInput<S> &input, const Panel &panel, const Blocks<float, width> &blocks) {
    constexpr int64_t most = most_pixels<width>;
    const int64_t tiles = (panel.columns + most - 1) / most;
    input.fill(call, panel);
    for (int64_t block = 0; block < blocks.count; ++block)
        for (int64_t line = panel.line; line < panel.line + panel.lines; ++line)
            for (int64_t i = 0; i < tiles; ++i) {
                const int64_t begin = panel.columns * i / tiles, pixels = panel.columns * (i + 1) / tiles - begin;
                with_pixels<most>(pixels, [&]<int64_t count>() {
                    dense_tile<S, count, width>(call, input, panel, line, panel.column + begin, blocks, block);
                });
            }
}

template <class S>
void dense_panels(const ConvCall<S> &images, const S *weight, const float *bias, const std::vector<Panel> &panels, int num_threads) {
    const ConvCall<S> call = images.e.kernel == 1 ? images.as_one_line() : images;
    with_dense_width(call.e.out_channels, [&]<int width>() {
        const Blocks<float, width> blocks(weight, bias, call.e, num_threads);
#pragma omp parallel num_threads(num_threads)
        {
            PanelInput<S> input;
#pragma omp for schedule(dynamic)
            for (size_t i = 0; i < panels.size(); ++i) dense_panel(call, input, panels[i], blocks);
        }
    });
}

}  // namespace spimm::SPIMM_ISA
