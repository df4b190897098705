/* The kernels of codec.c, which includes this once for each set of instructions.
 *
 * NAME(f) is f for that set. Every loop over a tile goes over all of it, so that it has a length
 * that the compiler knows; what lies beyond the last column is zero and goes nowhere.
 */

/* n values of a row as float32, in place where they are that and a whole tile, else in v. */
static const float *NAME(load_row)(const Grid *g, const void *values, int64_t row, int64_t first, int n, float *v) {
    const int64_t at = row * g->num_columns + first;
    if (g->dtype == FLOAT32) {
        if (n == TILE) return (const float *)values + at;
        memcpy(v, (const float *)values + at, sizeof(float) * n);
    } else if (g->dtype == BFLOAT16) {
        const uint16_t *x = (const uint16_t *)values + at;
        for (int c = 0; c < n; c++) v[c] = float_of((uint32_t)x[c] << 16);
    } else {
        const uint16_t *x = (const uint16_t *)values + at;
        for (int c = 0; c < n; c++) { /* the product is exact, for subnormal numbers too */
            const uint32_t bits = (uint32_t)(x[c] & 0x7FFF) << 13;
            const uint32_t finite = bits_of(float_of(bits) * 0x1p112f);
            const uint32_t magnitude = bits < 0x0F800000u ? finite : bits | 0x7F800000u;
            v[c] = float_of(magnitude | (uint32_t)(x[c] & 0x8000) << 16);
        }
    }
    return v;
}

static void NAME(store_row)(const Grid *g, void *values, int64_t row, int64_t first, int n, const float *v) {
    const int64_t at = row * g->num_columns + first;
    if (g->dtype == FLOAT32) {
        memcpy((float *)values + at, v, sizeof(float) * n);
    } else if (g->dtype == BFLOAT16) {
        uint16_t *x = (uint16_t *)values + at;
        for (int c = 0; c < n; c++) {
            uint32_t u = bits_of(v[c]);
            x[c] = (uint16_t)((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
        }
    } else {
        uint16_t *x = (uint16_t *)values + at;
        for (int c = 0; c < n; c++) {
            uint32_t u = bits_of(v[c]), sign = (u >> 16) & 0x8000;
            float magnitude = float_of(u & 0x7FFFFFFF);
            magnitude = magnitude > 65504.0f ? 65504.0f : magnitude;
            u = bits_of(magnitude);
            uint32_t normal = (u - (112u << 23) + 0xFFF + ((u >> 13) & 1)) >> 13;
            uint32_t subnormal = bits_of(magnitude + 0.5f) - bits_of(0.5f);
            x[c] = (uint16_t)(sign | (magnitude < 0x1p-14f ? subnormal : normal));
        }
    }
}

/* A stretch of a row of a table, always TILE long. */
static const float *NAME(stretch)(const float *row, int64_t first, int n, float *room) {
    if (n == TILE) return row + first;
    memset(room, 0, sizeof(float) * TILE);
    memcpy(room, row + first, sizeof(float) * n);
    return room;
}

/* One value for each of n columns, out of one for each group of columns. */
static const float *NAME(spread)(const Grid *g, const float *table, int64_t table_row_, int64_t first, int n,
                           float *room) {
    const float *row = table + table_row_ * g->num_groups;
    if (g->group_size == 1) return NAME(stretch)(row, first, n, room);
    if (n < TILE) memset(room, 0, sizeof(float) * TILE);
    int64_t group = first / g->group_size, left = g->group_size - first % g->group_size;
    for (int c = 0; c < n;) {
        int m = left < n - c ? (int)left : n - c;
        for (int i = 0; i < m; i++) room[c + i] = row[group];
        c += m;
        group++;
        left = g->group_size;
    }
    return room;
}

#ifdef __SSE2__
/* 128 bytes in eight vectors, address bits abc|defg: each round makes them bcd|efga. */
static void NAME(shuffle_round)(__m128i *v) {
    __m128i w[8];
    for (int i = 0; i < 4; i++) {
        w[2 * i] = _mm_unpacklo_epi8(v[i], v[i + 4]);
        w[2 * i + 1] = _mm_unpackhi_epi8(v[i], v[i + 4]);
    }
    memcpy(v, w, sizeof w);
}
#endif

/* The eight bytes of each column, out of eight rows of bytes. */
static void NAME(to_words)(const uint8_t *rows, uint64_t *words) {
#ifdef __SSE2__
    for (int c = 0; c < TILE; c += 16) {
        __m128i v[8];
        for (int r = 0; r < BLOCK; r++) v[r] = _mm_loadu_si128((const void *)(rows + r * TILE + c));
        for (int i = 0; i < 3; i++) NAME(shuffle_round)(v);
        for (int i = 0; i < 8; i++) _mm_storeu_si128((void *)(words + c + 2 * i), v[i]);
    }
#else
    for (int c = 0; c < TILE; c++) {
        uint64_t w = 0;
        for (int r = 0; r < BLOCK; r++) w |= (uint64_t)rows[r * TILE + c] << (8 * r);
        words[c] = w;
    }
#endif
}

/* Eight rows of bytes, out of the eight bytes of each column. */
static void NAME(to_rows)(const uint64_t *words, uint8_t *rows) {
#ifdef __SSE2__
    for (int c = 0; c < TILE; c += 16) {
        __m128i v[8];
        for (int i = 0; i < 8; i++) v[i] = _mm_loadu_si128((const void *)(words + c + 2 * i));
        for (int i = 0; i < 4; i++) NAME(shuffle_round)(v);
        for (int r = 0; r < BLOCK; r++) _mm_storeu_si128((void *)(rows + r * TILE + c), v[r]);
    }
#else
    for (int c = 0; c < TILE; c++)
        for (int r = 0; r < BLOCK; r++) rows[r * TILE + c] = (uint8_t)(words[c] >> (8 * r));
#endif
}

static void NAME(set_bounds)(Bounds *restrict t, const uint8_t *restrict widths, int all_codes) {
    int has_signs = 0;
    for (int c = 0; c < TILE; c++) {
        const int half = (1 << widths[c]) >> 1, top = half ? half - 1 : 0;
        t->high[c] = (float)top;
        t->low[c] = (float)(all_codes ? -half : -top);
        t->is_sign[c] = widths[c] == 1 ? 1.0f : 0.0f;
        has_signs |= widths[c] == 1;
    }
    t->has_signs = has_signs;
}

/* Codes of one row of a tile, of which the low bits count. Tables that are not there are zeros or
 * another function, never null: see `dequantize_row`. */
static void NAME(quantize_plain)(const Bounds *restrict t, const float *restrict v,
                           const float *restrict scale, uint32_t *restrict wide) {
    for (int c = 0; c < TILE; c++) {
        float q = v[c] / (scale[c] == 0.0f ? INFINITY : scale[c]);
        q = q > t->low[c] ? q : t->low[c];
        q = q < t->high[c] ? q : t->high[c];
        wide[c] = bits_of(q + MAGIC);
    }
}

static void NAME(quantize_shifted)(const Bounds *restrict t, const float *restrict v,
                             const float *restrict scale, const float *restrict zero,
                             const float *restrict noise, int is_noisy, uint32_t *restrict wide) {
    const float one = is_noisy ? 1.0f : 0.0f;
    for (int c = 0; c < TILE; c++) {
        const float low = t->low[c] - zero[c], high = t->high[c] - zero[c];
        float q = v[c] / (scale[c] == 0.0f ? INFINITY : scale[c]) + noise[c];
        q = q > low ? q : low;
        q = q < high ? q : high;
        float whole = (q + MAGIC) - MAGIC;
        whole -= whole > q ? one : 0.0f;
        wide[c] = bits_of(whole + zero[c] + MAGIC);
    }
}

static void NAME(quantize_signs)(const Bounds *restrict t, const float *restrict v,
                           const float *restrict scale, uint32_t *restrict wide) {
    for (int c = 0; c < TILE; c++) {
        const float turned = scale[c] < 0.0f ? -v[c] : v[c];
        const uint32_t sign = turned < 0.0f ? 1 : 0;
        wide[c] = t->is_sign[c] != 0.0f ? sign : wide[c];
    }
}

#ifndef HAS_PEXT
/* Eight bytes of codes, of which b bits count, to eight fields of b bits. */
static void NAME(squeeze)(uint64_t *restrict words, const uint8_t *restrict widths) {
    for (int c = 0; c < TILE; c++) {
        const uint64_t b = widths[c];
        uint64_t w = words[c] & (((uint64_t)1 << b) - 1) * 0x0101010101010101u;
        w = (w & 0x00FF00FF00FF00FFu) | ((w >> 8 & 0x00FF00FF00FF00FFu) << b);
        w = (w & 0x0000FFFF0000FFFFu) | ((w >> 16 & 0x0000FFFF0000FFFFu) << 2 * b);
        words[c] = (w & 0x00000000FFFFFFFFu) | (w >> 32) << 4 * b;
    }
}

/* Inverse of `squeeze`; what follows the fields in a word does not count. */
static void NAME(widen)(uint64_t *restrict words, const uint8_t *restrict widths) {
    for (int c = 0; c < TILE; c++) {
        const uint64_t b = widths[c], one = 1;
        const uint64_t m4 = (one << 4 * b) - 1, m2 = ((one << 2 * b) - 1) * 0x0000000100000001u;
        const uint64_t m1 = ((one << b) - 1) * 0x0001000100010001u;
        uint64_t w = words[c];
        w = (w & m4) | (w >> 4 * b & m4) << 32;
        w = (w & m2) | (w >> 2 * b & m2) << 16;
        words[c] = (w & m1) | (w >> b & m1) << 8;
    }
}
#endif

/* Words of eight codes, a byte each, to their bytes; returns where the next column's go. */
static uint8_t *NAME(store_words)(uint64_t *words, const uint8_t *widths, int n, uint8_t *out, const uint8_t *end) {
#ifndef HAS_PEXT
    NAME(squeeze)(words, widths);
#endif
    for (int c = 0; c < n; c++) {
        const int b = widths[c];
#ifdef HAS_PEXT
        const uint64_t word = _pext_u64(words[c], LOW_BITS(b));
#else
        const uint64_t word = words[c];
#endif
        if (end - out >= 8)
            memcpy(out, &word, 8); /* the bytes after b belong to the columns that follow */
        else if (b)
            memcpy(out, &word, b);
        out += b;
    }
    return out;
}

/* Inverse of `store_words`. */
static const uint8_t *NAME(load_words)(const uint8_t *in, const uint8_t *end, const uint8_t *widths, int n, uint64_t *words) {
    for (int c = 0; c < n; c++) {
        const int b = widths[c];
        uint64_t word = 0;
        if (end - in >= 8)
            memcpy(&word, in, 8);
        else if (b)
            memcpy(&word, in, b);
        in += b;
#ifdef HAS_PEXT
        words[c] = _pdep_u64(word, LOW_BITS(b));
#else
        words[c] = word;
#endif
    }
    for (int c = n; c < TILE; c++) words[c] = 0;
#ifndef HAS_PEXT
    NAME(widen)(words, widths);
#endif
    return in;
}

static int NAME(tile_widths)(const Grid *g, int64_t first, uint8_t *widths) {
    const int n = g->num_columns - first < TILE ? (int)(g->num_columns - first) : TILE;
    memset(widths, 0, TILE);
    memcpy(widths, g->widths + first, n);
    return n;
}

static const float *NAME(offset_of)(const Grid *g, int64_t row, int64_t first, int n, float *room) {
    const int64_t at = table_row(g->offset_rows, g->row_kind, row) * g->num_columns;
    return NAME(stretch)(g->offset + at, first, n, room);
}

static void NAME(encode_block)(const Grid *g, const void *values, int64_t block, uint8_t *out) {
    float v[TILE], moved[TILE], scales[TILE], zeros[TILE], noises[TILE], offsets[TILE];
    uint32_t wide[TILE];
    uint8_t rows[BLOCK * TILE], widths[TILE];
    uint64_t words[TILE];
    Bounds bounds;
    uint8_t *const end = out + g->block_bytes;
    memset(v, 0, sizeof v);
    for (int64_t first = 0; first < g->num_columns; first += TILE) {
        const int n = NAME(tile_widths)(g, first, widths);
        NAME(set_bounds)(&bounds, widths, g->all_codes || g->zero_point);
        memset(rows, 0, sizeof rows);
        for (int r = 0; r < BLOCK && block * BLOCK + r < g->num_rows; r++) {
            const int64_t row = block * BLOCK + r;
            const int64_t scale_row = table_row(g->scale_rows, g->row_kind, row);
            const float *scale = NAME(spread)(g, g->scale, scale_row, first, n, scales);
            const float *zero = nothing, *noise = nothing, *x = nothing;
            if (g->zero_point) zero = NAME(spread)(g, g->zero_point, scale_row, first, n, zeros);
            if (g->noise) noise = NAME(stretch)(g->noise + row * g->num_columns, first, n, noises);
            if (!g->row_kind || g->row_kind[row] != PADDING) {
                x = NAME(load_row)(g, values, row, first, n, v);
                if (g->offset) {
                    const float *offset = NAME(offset_of)(g, row, first, n, offsets);
                    for (int c = 0; c < TILE; c++) moved[c] = x[c] - offset[c];
                    x = moved;
                }
            }
            if (g->zero_point || g->noise)
                NAME(quantize_shifted)(&bounds, x, scale, zero, noise, g->noise != 0, wide);
            else
                NAME(quantize_plain)(&bounds, x, scale, wide);
            if (bounds.has_signs) NAME(quantize_signs)(&bounds, x, scale, wide);
            for (int c = 0; c < TILE; c++) rows[r * TILE + c] = (uint8_t)wide[c];
        }
        NAME(to_words)(rows, words);
        out = NAME(store_words)(words, widths, n, out, end);
    }
}

/* What a tile's widths make of codes: 1 + 2 code for a sign, nothing for no bits. */
typedef struct {
    float factor[TILE], summand[TILE];
    uint32_t kept[TILE]; /* of a value's bits: all or none */
    uint8_t half[TILE];
} NAME(Meaning);

static void NAME(set_meaning)(NAME(Meaning) *restrict t, const uint8_t *restrict widths) {
    for (int c = 0; c < TILE; c++) {
        t->factor[c] = widths[c] == 1 ? 2.0f : 1.0f;
        t->summand[c] = widths[c] == 1 ? 1.0f : 0.0f;
        t->kept[c] = widths[c] ? 0xFFFFFFFFu : 0;
        t->half[c] = (uint8_t)((1u << widths[c]) >> 1);
    }
}

/* Values of one row of codes. A table that is not there is zeros, or has no loop: out of a pointer
 * that may be null compilers make masked loads, which some processors do hundreds of times slower
 * where what they leave out is no address. */
static void NAME(dequantize_row)(const uint8_t *restrict codes, const NAME(Meaning) *restrict t,
                           const float *restrict scale, const float *restrict zero,
                           float *restrict v) {
    for (int c = 0; c < TILE; c++) {
        const uint8_t code = (uint8_t)((codes[c] ^ t->half[c]) - t->half[c]);
        const float whole = ((float)(int8_t)code - zero[c]) * t->factor[c] + t->summand[c];
        v[c] = float_of(bits_of(whole * scale[c]) & t->kept[c]);
    }
}

static void NAME(decode_block)(const Grid *g, const uint8_t *in, int64_t block, void *values) {
    float v[TILE], scales[TILE], zeros[TILE], offsets[TILE];
    uint8_t rows[BLOCK * TILE], widths[TILE];
    uint64_t words[TILE];
    NAME(Meaning) meaning;
    const uint8_t *const end = in + g->block_bytes;
    for (int64_t first = 0; first < g->num_columns; first += TILE) {
        const int n = NAME(tile_widths)(g, first, widths);
        in = NAME(load_words)(in, end, widths, n, words);
        NAME(to_rows)(words, rows);
        NAME(set_meaning)(&meaning, widths);
        for (int r = 0; r < BLOCK && block * BLOCK + r < g->num_rows; r++) {
            const int64_t row = block * BLOCK + r;
            const int64_t scale_row = table_row(g->scale_rows, g->row_kind, row);
            const float *scale = NAME(spread)(g, g->scale, scale_row, first, n, scales);
            const float *zero = nothing;
            if (g->zero_point) zero = NAME(spread)(g, g->zero_point, scale_row, first, n, zeros);
            float *to = v;
            if (g->dtype == FLOAT32 && n == TILE) to = (float *)values + row * g->num_columns + first;
            NAME(dequantize_row)(rows + r * TILE, &meaning, scale, zero, to);
            if (g->offset) {
                const float *offset = NAME(offset_of)(g, row, first, n, offsets);
                for (int c = 0; c < TILE; c++) to[c] += offset[c];
            }
            if (to == v) NAME(store_row)(g, values, row, first, n, v);
        }
    }
}

/* Magnitudes in the order of their bits, where NaN is the largest. */
static void NAME(grow)(int32_t *restrict largest, const float *restrict x, int n) {
    for (int c = 0; c < n; c++) {
        const int32_t magnitude = (int32_t)(bits_of(x[c]) & 0x7FFFFFFFu);
        largest[c] = magnitude > largest[c] ? magnitude : largest[c];
    }
}

/* Largest magnitude of each row; NaN where it has one. */
static void NAME(row_peaks)(const Grid *g, const void *values, int64_t first_row, int64_t end_row, float *peak) {
    float v[TILE];
    for (int64_t row = first_row; row < end_row; row++) {
        int32_t largest[TILE] = {0};
        for (int64_t first = 0; first < g->num_columns; first += TILE) {
            const int n = g->num_columns - first < TILE ? (int)(g->num_columns - first) : TILE;
            const float *x = NAME(load_row)(g, values, row, first, n, v);
            if (n == TILE)
                NAME(grow)(largest, x, TILE); /* a length that the compiler knows */
            else
                NAME(grow)(largest, x, n);
        }
        for (int half = TILE / 2; half; half /= 2)
            for (int c = 0; c < half; c++)
                largest[c] = largest[c + half] > largest[c] ? largest[c + half] : largest[c];
        peak[row] = float_of((uint32_t)largest[0]);
    }
}

/* Least and largest value of each column, over the rows of kind 0. */
static void NAME(column_bounds)(const Grid *g, const void *values, float *low, float *high) {
    float v[TILE];
    for (int64_t row = 0; row < g->num_rows; row++) {
        if (g->row_kind && g->row_kind[row]) continue;
        for (int64_t first = 0; first < g->num_columns; first += TILE) {
            const int n = g->num_columns - first < TILE ? (int)(g->num_columns - first) : TILE;
            float *lows = low + first, *highs = high + first;
            const float *x = NAME(load_row)(g, values, row, first, n, v);
            for (int c = 0; c < n; c++) {
                lows[c] = x[c] < lows[c] || x[c] != x[c] ? x[c] : lows[c];
                highs[c] = x[c] > highs[c] || x[c] != x[c] ? x[c] : highs[c];
            }
        }
    }
}

/* Squared error of candidate grids in steps, in 2048ths; passes.py has the bounds. */
static void NAME(candidate_errors)(const Candidates *a) {
    for (int64_t first = 0; first < a->num_columns; first += TILE) {
        const int n = a->num_columns - first < TILE ? (int)(a->num_columns - first) : TILE;
        for (int64_t k = 0; k < a->num_candidates; k++) {
            const int64_t at = k * a->num_columns + first;
            float step[TILE], low[TILE], high[TILE];
            int32_t fine[TILE] = {0}, coarse[TILE] = {0};
            for (int c = 0; c < TILE; c++) step[c] = 1.0f, low[c] = high[c] = 0.0f;
            for (int c = 0; c < n; c++) {
                step[c] = a->step[at + c] == 0.0f ? INFINITY : a->step[at + c];
                low[c] = a->low[at + c];
                high[c] = a->high[at + c];
            }
            for (int64_t row = 0; row < a->num_rows; row++) {
                const float *v = a->values + row * a->num_columns + first;
                for (int c = 0; c < n; c++) {
                    const float q = v[c] / step[c];
                    float code = q > low[c] ? q : low[c];
                    code = code < high[c] ? code : high[c];
                    code = (code + MAGIC) - MAGIC;
                    const float miss = q - code;
                    const float square = miss * miss * 2048.0f;
                    const float small = square < 2097152.0f ? square : 2097152.0f;
                    float rest = (square - small) / 2048.0f;
                    rest = rest < 2097152.0f ? rest : 2097152.0f;
                    fine[c] += (int32_t)(bits_of(small + MAGIC) - MAGIC_BITS);
                    coarse[c] += (int32_t)(bits_of(rest + MAGIC) - MAGIC_BITS);
                }
            }
            for (int c = 0; c < n; c++) a->error[at + c] = fine[c] + (int64_t)coarse[c] * 2048;
        }
    }
}

/* 16-bit words of a block of rows to eight for each column, or back; a missing row is zero. */
static void NAME(pack_words)(const uint16_t *words, uint16_t *out, int64_t num_rows, int64_t num_columns) {
    for (int64_t first = 0; first < num_rows; first += BLOCK) {
        const int n = num_rows - first < BLOCK ? (int)(num_rows - first) : BLOCK;
        for (int64_t c = 0; c < num_columns; c++) {
            uint16_t column[BLOCK] = {0};
            for (int r = 0; r < n; r++) column[r] = words[(first + r) * num_columns + c];
            memcpy(out, column, sizeof column);
            out += BLOCK;
        }
    }
}

static void NAME(unpack_words)(const uint16_t *in, uint16_t *words, int64_t num_rows, int64_t num_columns) {
    for (int64_t first = 0; first < num_rows; first += BLOCK) {
        const int n = num_rows - first < BLOCK ? (int)(num_rows - first) : BLOCK;
        for (int64_t c = 0; c < num_columns; c++) {
            uint16_t column[BLOCK];
            memcpy(column, in, sizeof column);
            in += BLOCK;
            for (int r = 0; r < n; r++) words[(first + r) * num_columns + c] = column[r];
        }
    }
}
