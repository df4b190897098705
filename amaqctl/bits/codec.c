/* The grid and the packed layout in one pass over the values: quantize + pack, unpack + dequantize.
 *
 * Arithmetic and layout are those of grid.py and packing.py, byte for byte: float32, round half to
 * even, no product that feeds an addition (compile with -ffp-contract=off). No Python and no
 * torch in here; native.py calls it through ctypes, which lets other threads run meanwhile.
 *
 * A block is eight rows; TILE columns of it are held at a time. Each row of a tile becomes one byte
 * a value, the eight bytes of a column become one word, and a word of eight b-bit fields is stored
 * as b bytes. Loops are plain, for the compiler to vectorise; the same source is compiled once for
 * any x86-64 (or other) machine and once with AVX2, and `amaqctl_init` says which may run.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif

#define TILE 64
#define BLOCK 8
#define PADDING 255
#define MAGIC 12582912.0f /* 1.5 * 2^23: added to a small float it leaves the integer in the low bits */
#define MAGIC_BITS 0x4B400000u

enum { FLOAT32 = 0, BFLOAT16 = 1, FLOAT16 = 2 };

typedef struct {
    int64_t num_rows, num_columns, block_bytes; /* block_bytes: the sum of all widths */
    const uint8_t *widths;
    const float *scale, *zero_point, *offset, *noise; /* the last three may be NULL */
    const uint8_t *row_kind;                          /* or NULL */
    int64_t group_size, num_groups;
    int64_t scale_rows, offset_rows;
    int32_t all_codes, dtype;
} Grid;

typedef struct {
    int64_t num_rows, num_columns, num_candidates;
    const float *values, *step, *low, *high;
    int64_t *error;
} Candidates;

/* What a tile's widths make of its grids: all loops below go over whole tiles. */
typedef struct {
    float low[TILE], high[TILE], is_sign[TILE];
    int has_signs;
} Bounds;

static inline uint32_t bits_of(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
static inline float float_of(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }

static inline int64_t table_row(int64_t num_table_rows, const uint8_t *row_kind, int64_t row) {
    if (num_table_rows == 1) return 0;
    if (row_kind == 0) return row;
    return row_kind[row] == PADDING ? 0 : row_kind[row];
}

/* The low b bits of each byte of a word. */
#define LOW_BITS(b) ((((uint64_t)1 << (b)) - 1) * 0x0101010101010101u)

static const float nothing[TILE]; /* of a table that is not there */

enum { PLAIN, AVX2, AVX2_PEXT };
static int level = PLAIN;

#define NAME(F) F##_plain
#include "codec_kernels.h"
#undef NAME

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define HAS_AVX2
#pragma GCC push_options
#pragma GCC target("avx2")
#define NAME(F) F##_avx2
#include "codec_kernels.h"
#undef NAME
#pragma GCC target("avx2,bmi2")
#define HAS_PEXT
#define NAME(F) F##_pext
#include "codec_kernels.h"
#undef NAME
#undef HAS_PEXT
#pragma GCC pop_options
#define PICK(F, ...)                                  \
    (level == AVX2_PEXT ? F##_pext(__VA_ARGS__)       \
     : level == AVX2    ? F##_avx2(__VA_ARGS__)       \
                        : F##_plain(__VA_ARGS__))
#else
#define PICK(F, ...) F##_plain(__VA_ARGS__)
#endif

#ifdef _WIN32
#define PUBLIC __declspec(dllexport)
#else
#define PUBLIC __attribute__((visibility("default")))
#endif

/* Choose the best that the machine has, at most ``most``, which is for tests; returns which. */
PUBLIC int amaqctl_init(int most) {
#ifdef HAS_AVX2
    __builtin_cpu_init();
    level = __builtin_cpu_supports("avx2") ? AVX2 : PLAIN;
    /* The first two generations of Zen have pext in microcode, a bit at a time. */
    if (level && __builtin_cpu_supports("bmi2") && !__builtin_cpu_is("znver1") && !__builtin_cpu_is("znver2"))
        level = AVX2_PEXT;
    level = level < most ? level : most;
#endif
    return level;
}

PUBLIC void amaqctl_encode(const Grid *g, const void *values, uint8_t *out, int64_t first, int64_t last) {
    for (int64_t block = first; block < last; block++)
        PICK(encode_block, g, values, block, out + block * g->block_bytes);
}

PUBLIC void amaqctl_decode(const Grid *g, const uint8_t *in, void *values, int64_t first, int64_t last) {
    for (int64_t block = first; block < last; block++)
        PICK(decode_block, g, in + block * g->block_bytes, block, values);
}

PUBLIC void amaqctl_row_peaks(const Grid *g, const void *values, int64_t first, int64_t last, float *peak) {
    PICK(row_peaks, g, values, first, last, peak);
}

PUBLIC void amaqctl_column_bounds(const Grid *g, const void *values, float *low, float *high) {
    PICK(column_bounds, g, values, low, high);
}

PUBLIC void amaqctl_candidate_errors(const Candidates *a) { PICK(candidate_errors, a); }

PUBLIC void amaqctl_pack_words(const uint16_t *words, uint16_t *out, int64_t num_rows, int64_t num_columns) {
    PICK(pack_words, words, out, num_rows, num_columns);
}

PUBLIC void amaqctl_unpack_words(const uint16_t *in, uint16_t *words, int64_t num_rows, int64_t num_columns) {
    PICK(unpack_words, in, words, num_rows, num_columns);
}
