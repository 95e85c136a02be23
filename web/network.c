// The arithmetic of the compact upscaler (car/models/compact.py) for WebAssembly with 128-bit SIMD.
//
// A feature map is [rows][columns][channels], float32, with a ring of one pixel around it that stays zero, as the
// padding of the convolutions does. All maps of a run have the same rows and columns. `region` counts from the first
// pixel inside the ring.
//
// Built by web/build.py; the result, network.wasm, is committed.

#include <wasm_simd128.h>

#define LANES 4
#define GROUP 12  // output channels computed together: three vectors for each of four pixels fill the registers
#define VECTORS (GROUP / LANES)

#define EXPORT(name) __attribute__((export_name(#name)))

enum { PLAIN, LEAKY_RELU, ADD };

static inline v128_t activate(v128_t x) {
  return wasm_f32x4_max(x, wasm_f32x4_mul(x, wasm_f32x4_const_splat(0.2f)));
}

// One group of output channels for `PIXELS` neighbours; `in` points to the upper left corner of the first one's
// window, `row` is the distance of rows in floats. Sums run over rows, columns, channels, in this order, for every
// number of pixels, so a result does not depend on where a tile begins.
#define PIXEL_BLOCK(NAME, PIXELS)                                                                              \
  static inline void NAME(const float *in, int row, int cin, const float *w, const float *bias, float *out,    \
                          int cout, int mode) {                                                                \
    v128_t sum[PIXELS][VECTORS];                                                                               \
    _Pragma("clang loop unroll(full)") for (int p = 0; p < PIXELS; p++)                                        \
        _Pragma("clang loop unroll(full)") for (int v = 0; v < VECTORS; v++)                                   \
            sum[p][v] = wasm_v128_load(bias + v * LANES);                                                      \
    for (int ky = 0; ky < 3; ky++) {                                                                           \
      const float *from = in + ky * row;                                                                       \
      for (int kx = 0; kx < 3; kx++, from += cin) {                                                            \
        for (int c = 0; c < cin; c++, w += GROUP) {                                                            \
          v128_t weight[VECTORS];                                                                              \
          _Pragma("clang loop unroll(full)") for (int v = 0; v < VECTORS; v++) weight[v] =                     \
              wasm_v128_load(w + v * LANES);                                                                   \
          _Pragma("clang loop unroll(full)") for (int p = 0; p < PIXELS; p++) {                                \
            v128_t x = wasm_v128_load32_splat(from + p * cin + c);                                             \
            _Pragma("clang loop unroll(full)") for (int v = 0; v < VECTORS; v++) sum[p][v] =                   \
                wasm_f32x4_add(sum[p][v], wasm_f32x4_mul(x, weight[v]));                                       \
          }                                                                                                    \
        }                                                                                                      \
      }                                                                                                        \
    }                                                                                                          \
    _Pragma("clang loop unroll(full)") for (int p = 0; p < PIXELS; p++) {                                      \
      _Pragma("clang loop unroll(full)") for (int v = 0; v < VECTORS; v++) {                                   \
        float *to = out + p * cout + v * LANES;                                                                \
        v128_t value = sum[p][v];                                                                              \
        if (mode == LEAKY_RELU) value = activate(value);                                                       \
        if (mode == ADD) value = wasm_f32x4_add(value, wasm_v128_load(to));                                    \
        wasm_v128_store(to, value);                                                                            \
      }                                                                                                        \
    }                                                                                                          \
  }

PIXEL_BLOCK(four_pixels, 4)
PIXEL_BLOCK(one_pixel, 1)

// out = conv3x3(in) in the region, or max(x, 0.2 x) of it, or added to what `out` holds.
// `columns` is the width of the maps with the ring; `cout` a multiple of 12; weights are [cout / 12][3][3][cin][12].
EXPORT(conv)
void conv(const float *in, float *out, const float *weights, const float *bias, int cin, int cout, int columns,
          int top, int bottom, int left, int right, int mode) {
  const int row = columns * cin;
  for (int group = 0; group < cout; group += GROUP) {
    for (int y = top; y < bottom; y++) {
      const float *from = in + y * row;  // the ring puts the window's corner here
      float *to = out + (y + 1) * columns * cout + cout + group;
      int x = left;
      for (; x + 4 <= right; x += 4)
        four_pixels(from + x * cin, row, cin, weights, bias + group, to + x * cout, cout, mode);
      for (; x < right; x++)
        one_pixel(from + x * cin, row, cin, weights, bias + group, to + x * cout, cout, mode);
    }
    weights += 9 * cin * GROUP;
  }
}

// RGBA pixels to the network's input, x / 255 - 0.5, three channels, with the ring zero.
// `pixels` holds height x width of them, which are all that the window has of the picture.
EXPORT(load)
void load(const unsigned char *pixels, float *in, int height, int width) {
  const int columns = width + 2;
  for (int y = 0; y < height; y++)
    for (int x = 0; x < width; x++)
      for (int c = 0; c < 3; c++)
        in[((y + 1) * columns + x + 1) * 3 + c] = pixels[(y * width + x) * 4 + c] / 255.0f - 0.5f;
}

static inline float mix(float a, float b, float t) { return (1 - t) * a + t * b; }

// Pixel-shuffle the residual, add the bilinear enlargement of the input, round to 8 bit, write opaque RGBA.
// The result has the region's size times `scale`; height and width are those of the window without the ring.
EXPORT(finish)
void finish(const float *in, const float *residual, unsigned char *pixels, int scale, int height, int width,
            int top, int bottom, int left, int right, int grey) {
  const int columns = width + 2, stride = (3 * scale * scale + 11) / 12 * 12; // what conv writes
  for (int y = top * scale; y < bottom * scale; y++) {
    float v = (y + 0.5f) / scale - 0.5f;
    v = v < 0 ? 0 : v;
    const int y0 = (int)v, y1 = y0 + 1 < height ? y0 + 1 : y0;
    for (int x = left * scale; x < right * scale; x++) {
      float u = (x + 0.5f) / scale - 0.5f;
      u = u < 0 ? 0 : u;
      const int x0 = (int)u, x1 = x0 + 1 < width ? x0 + 1 : x0;
      const int cell = ((y / scale + 1) * columns + x / scale + 1) * stride;
      const int part = y % scale * scale + x % scale;
      for (int c = 0; c < 3; c++) {
        const float *a = in + (y0 + 1) * columns * 3 + c, *b = in + (y1 + 1) * columns * 3 + c;
        const float base = mix(mix(a[(x0 + 1) * 3], a[(x1 + 1) * 3], u - x0),
                               mix(b[(x0 + 1) * 3], b[(x1 + 1) * 3], u - x0), v - y0);
        float value = base + 0.5f + residual[cell + c * scale * scale + part];
        value = (value < 0 ? 0 : value > 1 ? 1 : value) * 255;
        pixels[c] = (unsigned char)__builtin_rintf(value);
      }
      if (grey) // luma of ITU-R BT.601, in parts of 65536
        pixels[0] = pixels[1] = pixels[2] = (19595 * pixels[0] + 38470 * pixels[1] + 7471 * pixels[2] + 32768) >> 16;
      pixels[3] = 255;
      pixels += 4;
    }
  }
}
