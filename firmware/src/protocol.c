/* A command is text up to `%`. Every answer line ends in CRLF, every command ends with `m-ready`, and what cannot be done
 * is answered with `e-[reason]`. All state lives in the few statics below; every buffer is bounded. */
#include "protocol.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "crc32.h"
#include "network.h"
#include "nn_observer.h"
#include "port.h"
#include "watermark.h"

#ifndef HARNESS_BUILD_ID
#error "HARNESS_BUILD_ID must be a string of 16 hexadecimal digits"
#endif
#ifndef HARNESS_BOARD
#error "HARNESS_BOARD must be a string: the board's name"
#endif
/* The benchmark's name that the MLPerf runner expects (kws01, ic01, vww01, ad01), where the network is one. */
#ifndef HARNESS_PROFILE
#define HARNESS_PROFILE NETWORK_NAME
#endif

/* Whether layers' outputs may have less than a byte an element; network.h says so where they do. */
#ifndef NETWORK_PACKED
#define NETWORK_PACKED 0
#endif

enum {
    LINE_BYTES = 96,        /* the stock runner's longest line has 65 */
    COUNT_DIGITS = 9,       /* the longest count that always fits 32 bits */
    DEFAULT_WARMUPS = 10,   /* of `infer` without a second number, as in EEMBC's firmware */
    BUFFER_LINE_BYTES = 8,  /* bytes in a line of `db print` */
    /* Observer calls to average over: a multiple of 125, as QEMU has 3.2, 2.56 or 4.096 ticks an instruction. */
    CALIBRATION_CALLS = 1000,
};

/* 0 where RAM has no room for a second copy of the input: the host then sends it again before each inference. */
#ifndef HARNESS_STAGING
#define HARNESS_STAGING 1
#endif

/* The input as the host sent it. The network may consume its own input, so it is refilled from here. */
#if HARNESS_STAGING
static uint8_t staging[NETWORK_INPUT_BYTES];
#else
#define staging ((uint8_t *)network_input())
#endif
static uint32_t missing; /* bytes that `db load` announced and that are still to come */
static bool loaded;      /* staging holds a whole input */
static bool inferred;    /* the network's output is valid */

/* What the observers find out; one command runs at a time. */
static union {
    uint32_t crc[NETWORK_LAYERS];
    struct {
        uint64_t ticks;
        uint32_t calls;
    } time[NETWORK_LAYERS];
} layers;
static uint64_t observed; /* when the observer was last called, in ticks */

/* CRC-32 of the last answer without its m-ready: what `sum%` tells, so that a host notices a digit that was damaged on
 * the way, which no pattern can. */
static uint32_t answer;

/* --- output --- */

static void put_byte(char byte)
{
    answer = crc32_update(answer, &byte, 1);
    port_write((uint8_t)byte);
}

static void put_text(const char *text)
{
    while (*text) {
        put_byte(*text++);
    }
}

/* Divides in place, returns the remainder. `divisor` is below 65,536: four 16-bit steps of the hardware's 32-bit division
 * do what libgcc's 64-bit division takes 700 bytes for. */
static uint32_t divide(uint64_t *value, uint32_t divisor)
{
    uint32_t remainder = 0;

    for (int step = 0; step < 4; step++) {
        uint32_t part = remainder << 16 | (uint32_t)(*value >> 48);
        *value = *value << 16 | part / divisor;
        remainder = part % divisor;
    }
    return remainder;
}

/* At least `digits` decimal digits, with leading zeros. */
static void put_decimal(uint64_t value, uint32_t digits)
{
    char text[21]; /* 2^64 has 20 digits */
    char *first = text + sizeof text - 1;

    *first = '\0';
    for (; value || digits; digits -= digits > 0) {
        *--first = (char)('0' + divide(&value, 10));
    }
    put_text(first);
}

static void put_hex(uint32_t value, int digits)
{
    while (digits--) {
        put_byte("0123456789abcdef"[value >> 4 * digits & 15u]);
    }
}

static void put_close(void)
{
    put_text("]\r\n");
}

/* m-<name>-[<text>] */
static void put_string_line(const char *name, const char *text)
{
    put_text(name);
    put_text(text);
    put_close();
}

/* <name><value>] */
static void put_number_line(const char *name, uint64_t value)
{
    put_text(name);
    put_decimal(value, 1);
    put_close();
}

/* <name><first>,  - the line goes on */
static void put_pair(const char *name, uint32_t first)
{
    put_text(name);
    put_decimal(first, 1);
    put_byte(',');
}

static void put_error(const char *reason)
{
    put_string_line("e-[", reason);
}

static void put_lap(uint64_t ticks)
{
    divide(&ticks, port_tick_hz() / 1000000u);
    put_text("m-lap-us-");
    put_decimal(ticks, 1);
    put_text("\r\n");
}

static void put_results(void)
{
    put_text("m-results-[");
    for (uint32_t index = 0; index < NETWORK_OUTPUT_COUNT; index++) {
        int32_t milli = network_score_milli(index);
        uint32_t magnitude = milli < 0 ? 0u - (uint32_t)milli : (uint32_t)milli;
        if (index) {
            put_byte(',');
        }
        if (milli < 0) {
            put_byte('-');
        }
        put_decimal(magnitude / 1000u, 1);
        put_byte('.');
        put_decimal(magnitude % 1000u, 3);
    }
    put_close();
}

/* --- input --- */

/* Cuts the next word off `*rest`; the empty string when there is none. */
static char *next_word(char **rest)
{
    char *word = *rest;

    while (*word == ' ') {
        word++;
    }
    char *end = word;
    while (*end && *end != ' ') {
        end++;
    }
    *rest = end;
    if (*end) {
        *end = '\0';
        *rest = end + 1;
    }
    return word;
}

static bool same(const char *a, const char *b)
{
    while (*a && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

/* The decimal number in `word`, `fallback` when it is empty. False when it is no number, or too long. */
static bool read_count(const char *word, uint32_t fallback, uint32_t *count)
{
    *count = *word ? 0 : fallback;
    for (uint32_t digits = 0; *word; digits++, word++) {
        if (*word < '0' || *word > '9' || digits == COUNT_DIGITS) {
            return false;
        }
        *count = *count * 10u + (uint32_t)(*word - '0');
    }
    return true;
}

/* The value of a hexadecimal digit of either case; above 15 for any other character. */
static uint32_t hex_digit(char digit)
{
    if (digit <= '9') {
        return (uint32_t)digit - '0'; /* wraps for what sorts below '0' */
    }
    uint32_t letter = ((uint32_t)digit | 0x20u) - 'a';
    return letter < 6u ? letter + 10u : 16u;
}

/* --- inference --- */

static bool input_is_loaded(void)
{
    if (!loaded) {
        put_error("no input loaded");
    }
    return loaded;
}

/* Every inference begins with this. */
static void refill_input(void)
{
#if HARNESS_STAGING
    uint8_t *input = network_input();

    for (uint32_t index = 0; index < NETWORK_INPUT_BYTES; index++) {
        input[index] = staging[index];
    }
#else
    loaded = false;
#endif
    inferred = true;
}

/* Whether so many inferences can follow without another input; if not, says so. */
static bool input_lasts(uint32_t inferences)
{
#if HARNESS_STAGING
    (void)inferences;
#else
    if (inferences > 1u) {
        put_error("an inference consumes the input: load it for each");
        return false;
    }
#endif
    return true;
}

/* Ticks that `region` takes, called through the one call instruction below: the empty region and the network are measured
 * by the same bytes at the same address. */
__attribute__((noipa)) static uint64_t measure(void (*region)(nn_observer))
{
    uint64_t start = port_ticks();
    region(NULL);
    return port_ticks() - start;
}

__attribute__((noipa)) static void empty_region(nn_observer observer)
{
    (void)observer;
}

static uint64_t timed_inference(void)
{
    refill_input();
    return measure(network_infer);
}

static void clear_layers(void)
{
    uint8_t *byte = (uint8_t *)&layers;

    for (uint32_t index = 0; index < sizeof layers; index++) {
        byte[index] = 0;
    }
}

/* The time since the previous call belongs to the layer that has just finished some elements. The counter is read once a
 * call, so that the ticks of a layer's consecutive calls add up without rounding. */
static void observe_time(uint32_t layer, const void *data, uint32_t elements, nn_element element)
{
    (void)data;
    (void)elements;
    (void)element;
    if (layer < NETWORK_LAYERS) {
        uint64_t now = port_ticks();
        layers.time[layer].ticks += now - observed;
        layers.time[layer].calls++;
        observed = now;
    }
}

static void observe_crc(uint32_t layer, const void *data, uint32_t elements, nn_element element)
{
    if (layer >= NETWORK_LAYERS) {
        return;
    }
    uint32_t crc = layers.crc[layer];
    if (NETWORK_PACKED && (element == NN_U4 || element == NN_U2)) {
        const uint32_t bits = element == NN_U4 ? 4u : 2u;
        for (uint32_t index = 0; index < elements; index++) {
            const uint32_t first = index * bits;
            uint8_t byte = (uint8_t)(((const uint8_t *)data)[first / 8u] >> first % 8u & ((1u << bits) - 1u));
            crc = crc32_update(crc, &byte, 1);
        }
    } else if (element == NN_U8_IN_16 || element == NN_S8) {
        /* Of 16 bits the lower ones, which come first in memory. */
        const uint32_t step = element == NN_S8 ? 1u : 2u, flipped = element == NN_S8 ? 0x80u : 0u;
        for (const uint8_t *next = data; elements; elements--, next += step) {
            uint8_t byte = (uint8_t)(*next ^ flipped);
            crc = crc32_update(crc, &byte, 1);
        }
    } else {
        crc = crc32_update(crc, data, element == NN_U8 ? elements : 4u * elements);
    }
    layers.crc[layer] = crc;
}

/* The same call as a kernel makes, many times. */
__attribute__((noipa)) static void call_observer(nn_observer observer)
{
    for (uint32_t calls = CALIBRATION_CALLS; calls; calls--) {
        nn_observe(observer, 0, staging, 0, NN_U8);
    }
}

static void observed_run(void (*run)(nn_observer), nn_observer observer)
{
    clear_layers();
    observed = port_ticks();
    run(observer);
}

/* --- commands: what follows the command's name is in `rest` --- */

static void command_name(char *rest)
{
    (void)rest;
    put_string_line("m-name-dut-[", HARNESS_BOARD);
}

static void command_profile(char *rest)
{
    (void)rest;
    put_string_line("m-profile-[", "ULPMark for tinyML Firmware V0.0.1");
    put_string_line("m-model-[", HARNESS_PROFILE);
}

static void command_build(char *rest)
{
    (void)rest;
    put_string_line("m-build-[", HARNESS_BUILD_ID);
}

static void command_timestamp(char *rest)
{
    (void)rest;
    put_lap(port_ticks());
}

static void db_load(char *rest)
{
    uint32_t bytes;

    if (!read_count(next_word(&rest), 0, &bytes) || bytes != NETWORK_INPUT_BYTES) {
        put_number_line("e-[input bytes must be ", NETWORK_INPUT_BYTES);
        return;
    }
    missing = bytes;
    loaded = false;
#if !HARNESS_STAGING
    inferred = false; /* the output may lie where the input comes */
#endif
    put_text("m-[Expecting ");
    put_decimal(bytes, 1);
    put_text(" bytes]\r\n");
}

static void db_crc(void)
{
    if (input_is_loaded()) {
        put_text("m-crc-[");
        put_hex(crc32_update(0, staging, NETWORK_INPUT_BYTES), 8);
        put_close();
    }
}

static void db_print(void)
{
    if (!input_is_loaded()) {
        return;
    }
    for (uint32_t index = 0; index < NETWORK_INPUT_BYTES; index++) {
        put_text(index % BUFFER_LINE_BYTES ? "-" : "m-buffer-[");
        put_hex(staging[index], 2);
        if (index % BUFFER_LINE_BYTES == BUFFER_LINE_BYTES - 1u || index == NETWORK_INPUT_BYTES - 1u) {
            put_close();
        }
    }
}

/* A line is taken whole or not at all, so that the host can send a damaged one again. */
static void db_bytes(const char *digits)
{
    uint32_t length = 0;

    while (digits[length]) {
        if (hex_digit(digits[length++]) > 15u) {
            put_error("not a hexadecimal digit");
            return;
        }
    }
    if (length == 0 || length % 2u) {
        put_error("bytes have two digits each");
        return;
    }
    if (length / 2u > missing) {
        put_error("more bytes than db load announced");
        return;
    }
    for (; *digits; digits += 2) {
        staging[NETWORK_INPUT_BYTES - missing--] = (uint8_t)(hex_digit(digits[0]) << 4 | hex_digit(digits[1]));
    }
    if (missing == 0) {
        loaded = true;
        put_text("m-load-done\r\n");
    }
}

static void command_db(char *rest)
{
    char *word = next_word(&rest);

    if (same(word, "load")) {
        db_load(rest);
    } else if (same(word, "crc")) {
        db_crc();
    } else if (same(word, "print")) {
        db_print();
    } else {
        db_bytes(word);
    }
}

static void command_infer(char *rest)
{
    uint32_t runs, warmups;

    if (!read_count(next_word(&rest), 1, &runs) || !runs ||
        !read_count(next_word(&rest), DEFAULT_WARMUPS, &warmups)) {
        put_error("usage: infer RUNS WARMUPS");
        return;
    }
    if (!input_is_loaded() || !input_lasts(warmups + runs)) {
        return;
    }
    put_text("m-warmup-start-");
    put_decimal(warmups, 1);
    put_text("\r\n");
    while (warmups--) {
        timed_inference();
    }
    put_text("m-warmup-done\r\nm-infer-start-");
    put_decimal(runs, 1);
    put_text("\r\n");

    /* The second time is the first plus the inferences alone: refilling the input is the protocol's work. */
    uint64_t ticks = port_ticks();
    put_lap(ticks);
    while (runs--) {
        ticks += timed_inference();
    }
    put_lap(ticks);
    put_text("m-infer-done\r\n");
    put_results();
}

static void command_results(char *rest)
{
    (void)rest;
    if (inferred) {
        put_results();
    } else {
        put_error("no inference yet");
    }
}

static void command_ticks(char *rest)
{
    uint32_t runs;

    if (!read_count(next_word(&rest), 1, &runs) || !runs) {
        put_error("usage: ticks RUNS");
        return;
    }
    if (!input_is_loaded() || !input_lasts(runs)) {
        return;
    }
    put_number_line("m-tick-hz-[", port_tick_hz());
    measure(empty_region); /* fills the caches */
    put_number_line("m-empty-[", measure(empty_region));
    while (runs--) {
        put_number_line("m-ticks-[", timed_inference());
    }
}

/* A layer that hands over its output in several calls pays for several: all but one are taken off here, so that each
 * layer's ticks hold m-layer-empty exactly once. */
static void command_layers(char *rest)
{
    (void)rest;
    if (!input_is_loaded()) {
        return;
    }
    observed_run(call_observer, observe_time); /* fills the caches */
    observed_run(call_observer, observe_time);
    uint32_t calibration = (uint32_t)layers.time[0].ticks;
    put_number_line("m-layer-empty-[", (calibration + CALIBRATION_CALLS / 2u) / CALIBRATION_CALLS);

    refill_input();
    observed_run(network_infer, observe_time);
    for (uint32_t layer = 0; layer < NETWORK_LAYERS; layer++) {
        uint64_t overhead = (uint64_t)calibration * (layers.time[layer].calls - (layers.time[layer].calls > 0));
        overhead += CALIBRATION_CALLS / 2u;
        divide(&overhead, CALIBRATION_CALLS);
        uint64_t ticks = layers.time[layer].ticks;
        put_pair("m-layer-[", layer);
        put_decimal(ticks > overhead ? ticks - overhead : 0, 1);
        put_close();
    }
}

static void command_crc(char *rest)
{
    (void)rest;
    if (!input_is_loaded()) {
        return;
    }
    refill_input();
    observed_run(network_infer, observe_crc);
    for (uint32_t layer = 0; layer < NETWORK_LAYERS; layer++) {
        put_pair("m-layer-crc-[", layer);
        put_hex(layers.crc[layer], 8);
        put_close();
    }
    put_number_line("m-class-[", network_class());
    put_text("m-output-[");
    const uint8_t *output = network_output();
    for (uint32_t index = 0; index < NETWORK_OUTPUT_BYTES; index++) {
        put_hex(output[index], 2);
    }
    put_close();
}

static void command_stack(char *rest)
{
    (void)rest;
    put_pair("m-stack-[", watermark_used());
    put_decimal(watermark_reserved(), 1);
    put_close();
}

/* m-clock-[<source>,<core Hz>,<wait states>,<registers>], m-caches-[<names>], and m-register-[<address>,<value>] for each
 * of the registers that say so, in hexadecimal. */
static void command_clock(char *rest)
{
    static const char *const names[] = {"prefetch", "art", "instruction", "data"}; /* in the order of PORT_CACHE_* */
    struct port_clock clock;
    bool first = true;

    (void)rest;
    port_clock(&clock);
    put_text("m-clock-[");
    put_text(clock.source);
    put_byte(',');
    put_pair("", clock.core_hz);
    put_pair("", clock.wait_states);
    put_decimal(clock.count, 1);
    put_close();
    put_text("m-caches-[");
    for (uint32_t cache = 0; cache < sizeof names / sizeof names[0]; cache++) {
        if (clock.caches >> cache & 1u) {
            put_text(first ? "" : ",");
            put_text(names[cache]);
            first = false;
        }
    }
    put_close();
    for (uint32_t index = 0; index < clock.count; index++) {
        put_text("m-register-[");
        put_hex(clock.registers[index], 8);
        put_byte(',');
        put_hex(*(const volatile uint32_t *)(uintptr_t)clock.registers[index], 8);
        put_close();
    }
}

/* Of the answer before this one, however often it is asked for. */
static void command_sum(char *rest)
{
    uint32_t sum = answer;

    (void)rest;
    put_text("m-sum-[");
    put_hex(sum, 8);
    put_close();
    answer = sum;
}

static void command_help(char *rest)
{
    (void)rest;
    put_text("m-[name profile build timestamp db-load-N db-HEX db-crc db-print infer-N-W results ticks-N layers crc stack clock sum]\r\n");
}

static const struct {
    const char *name;
    void (*run)(char *rest);
} commands[] = {
    {"name", command_name},     {"profile", command_profile},     {"build", command_build},
    {"db", command_db},         {"infer", command_infer},         {"ticks", command_ticks},
    {"layers", command_layers}, {"crc", command_crc},             {"stack", command_stack},
    {"results", command_results}, {"timestamp", command_timestamp}, {"help", command_help},
    {"sum", command_sum},       {"clock", command_clock},
};

static void execute(char *line)
{
    char *name = next_word(&line);

    if (!same(name, "sum")) {
        answer = 0;
    }
    for (uint32_t index = 0; index < sizeof commands / sizeof commands[0]; index++) {
        if (same(name, commands[index].name)) {
            commands[index].run(line);
            return;
        }
    }
    put_error("unknown command");
}

_Noreturn void protocol_serve(void)
{
    char line[LINE_BYTES];
    uint32_t length = 0; /* of the line so far; LINE_BYTES when it does not fit */

    for (;;) {
        uint8_t next = port_read();
        if (next != '%') {
            /* Terminals send line ends: they and other control characters mean nothing. */
            if (next >= ' ' && length < LINE_BYTES) {
                line[length++] = (char)next;
            }
            continue;
        }
        if (length < LINE_BYTES) {
            line[length] = '\0';
            execute(line);
        } else {
            put_error("line too long");
        }
        length = 0;
        uint32_t sum = answer;
        put_text("m-ready\r\n");
        answer = sum;
    }
}
