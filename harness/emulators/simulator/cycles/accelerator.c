/* counter.py's PythonCounter in C: the same algorithm, the same integers. Its hooks are called by Unicorn directly.
 * Python decides what a block costs (meet()), and reads the results; nothing is computed here but sums. */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define NOTHING UINT32_MAX
#define PAGE 1024 /* Unicorn's, on M-profile cores */
#define LOAD 16 /* UC_MEM_READ */
#define STORE 17 /* UC_MEM_WRITE */
#define FETCH 18 /* UC_MEM_FETCH */
#define PREDICT_AT_FIRST 2
#define PREDICT_TAKEN 2
#define PREDICT_STRONGEST 3

/* One line of instruction memory that a block needs, and its cost where it is missing: branched to, or fallen into. */
struct line {
    uint32_t number, branched, fallen;
};

/* An edge: `address` behind block number `before`. The first fields are what Python fills in. */
struct edge {
    uint32_t before, address, block, instructions;
    uint32_t cycles; /* with what its branch costs when it is predicted */
    uint32_t mispredicted; /* further cycles when it is not */
    uint32_t site; /* the predictor of its branch, NOTHING for one that is not predicted */
    uint32_t taken, branched; /* branched: its first line is not read ahead */
    uint32_t first_line, lines;
    uint32_t dead;
    uint64_t stamp; /* of the time when all its lines were there */
    uint64_t count, data, fetch, branch;
};

struct cache {
    uint32_t shift, sets, ways;
    uint32_t last; /* the line that was touched last, which is there */
    uint32_t *tags, *filled, *next;
};

/* Addresses whose accesses may wait; costly: 0 for one that never does. memory: what is there, for a place that is a
 * device to Unicorn. code: 1 for each of its pages that code was fetched from. */
struct place {
    struct counter *counter;
    uint32_t start, costly, miss, store;
    uint8_t *memory, *code;
};

/* Pages of memory: where Unicorn finds them, and what may be done there (UC_PROT_*), for data and for instructions.
 * code: see struct place; or NULL. */
struct pages {
    uint32_t start, size, data, fetch;
    uint64_t physical;
    uint8_t *code;
};

/* uc_tlb_entry */
struct translation {
    uint64_t physical;
    int permissions;
};

struct counter {
    uint64_t executed, cycles;
    uint64_t limit; /* of executed instructions, where Python is asked before every block */
    uint32_t current, block; /* the current edge and its block; NOTHING at first */
    uint32_t leaving;
    uint64_t stamp;
    uint32_t (*meet)(uint32_t address, uint32_t size); /* 1: go on, and the edge is there; 0: the run is being stopped */
    uint32_t (*leave)(uint32_t address, uint32_t size); /* the same for an edge that is known */
    struct edge *edges;
    uint32_t edge_count, edge_room;
    struct line *lines;
    uint32_t line_count, line_room;
    uint8_t *sites;
    uint32_t site_count, site_room;
    uint32_t *table; /* edge numbers by hash; a power of two of them */
    uint32_t table_room;
    struct cache fetch, data;
    struct place *places;
    uint32_t place_count;
    struct pages *pages;
    uint32_t pages_count, pages_room;
    int (*write)(void *uc, int number, const void *value); /* of the core's registers */
    int it_state;
    uint64_t it_state_cleared;
    int (*control)(void *uc, unsigned type, ...); /* uc_ctl() */
    uint32_t forget_code; /* its type that throws translations away */
    uint32_t split_at; /* where in a uc_engine the size of an access that is being split is, else 0 */
    uint32_t rest, rest_end; /* addresses of what is left of one that was split, if it goes on */
};

static void *grown(void *old, uint32_t *room, uint32_t wanted, size_t size)
{
    if (wanted <= *room) {
        return old;
    }
    uint32_t larger = *room ? *room : 256;
    while (larger < wanted) {
        larger *= 2;
    }
    void *now = realloc(old, (size_t)larger * size);
    if (!now) {
        abort();
    }
    *room = larger;
    return now;
}

static void cache_init(struct cache *cache, uint32_t shift, uint32_t sets, uint32_t ways)
{
    cache->shift = shift;
    cache->sets = sets;
    cache->ways = ways;
    cache->tags = calloc((size_t)sets * ways, sizeof *cache->tags);
    cache->filled = calloc(sets, sizeof *cache->filled);
    cache->next = calloc(sets, sizeof *cache->next);
    cache->last = NOTHING;
    if (!cache->tags || !cache->filled || !cache->next) {
        abort();
    }
}

static void cache_clear(struct cache *cache)
{
    memset(cache->filled, 0, cache->sets * sizeof *cache->filled);
    memset(cache->next, 0, cache->sets * sizeof *cache->next);
    cache->last = NOTHING;
}

/* Brings a line in; false when it is there. */
static inline bool cache_fill(struct cache *cache, uint32_t line)
{
    uint32_t set = line % cache->sets;
    uint32_t *tags = cache->tags + (size_t)set * cache->ways, filled = cache->filled[set];
    cache->last = line;
    for (uint32_t way = 0; way < filled; way++) {
        if (tags[way] == line) {
            return false;
        }
    }
    if (filled < cache->ways) {
        tags[filled] = line;
        cache->filled[set] = filled + 1;
    } else {
        uint32_t way = cache->next[set];
        tags[way] = line;
        cache->next[set] = way + 1 == cache->ways ? 0 : way + 1;
    }
    return true;
}

static inline uint32_t hash(uint32_t before, uint32_t address)
{
    uint32_t mixed = before * 2654435761u ^ (address >> 1) * 2246822519u;
    return mixed ^ mixed >> 15;
}

static inline struct edge *find(const struct counter *c, uint32_t before, uint32_t address)
{
    uint32_t mask = c->table_room - 1;
    for (uint32_t at = hash(before, address) & mask; c->table[at] != NOTHING; at = (at + 1) & mask) {
        struct edge *edge = &c->edges[c->table[at]];
        if (edge->address == address && edge->before == before && !edge->dead) {
            return edge;
        }
    }
    return NULL;
}

static void insert(struct counter *c, uint32_t number)
{
    uint32_t mask = c->table_room - 1, at = hash(c->edges[number].before, c->edges[number].address) & mask;
    while (c->table[at] != NOTHING) {
        at = (at + 1) & mask;
    }
    c->table[at] = number;
}

static void look_closer(struct counter *c, struct edge *edge)
{
    if (edge->site != NOTHING) {
        uint8_t *state = &c->sites[edge->site];
        if ((*state >= PREDICT_TAKEN) != (edge->taken != 0)) {
            c->cycles += edge->mispredicted;
            edge->branch += edge->mispredicted;
        }
        if (edge->taken) {
            *state += *state < PREDICT_STRONGEST;
        } else {
            *state -= *state > 0;
        }
    }
    if (edge->stamp != c->stamp) {
        bool filled = false;
        for (uint32_t index = 0; index < edge->lines; index++) {
            const struct line *line = &c->lines[edge->first_line + index];
            if (cache_fill(&c->fetch, line->number)) {
                uint32_t extra = edge->branched ? line->branched : line->fallen;
                c->cycles += extra;
                edge->fetch += extra;
                filled = true;
            }
        }
        if (filled) {
            c->stamp++;
        } else {
            edge->stamp = c->stamp;
        }
    }
}

void counter_on_block(void *uc, uint64_t address, uint32_t size, void *user)
{
    (void)uc;
    struct counter *c = user;
    struct edge *edge = find(c, c->block, (uint32_t)address);
    if (!edge) {
        if (!c->meet((uint32_t)address, size)) {
            return;
        }
        edge = find(c, c->block, (uint32_t)address);
        if (!edge) {
            return;
        }
    } else if (__atomic_load_n(&c->leaving, __ATOMIC_ACQUIRE) || c->executed >= c->limit) {
        if (!c->leave((uint32_t)address, size)) {
            return;
        }
    }
    if (edge->stamp != c->stamp || edge->site != NOTHING) {
        look_closer(c, edge);
    }
    edge->count++;
    c->executed += edge->instructions;
    c->cycles += edge->cycles;
    c->current = (uint32_t)(edge - c->edges);
    c->block = edge->block;
}

static inline void touch(struct counter *c, uint32_t address, uint32_t extra)
{
    uint32_t line = address >> c->data.shift;
    if (line == c->data.last || !cache_fill(&c->data, line)) {
        return;
    }
    c->cycles += extra;
    if (c->current != NOTHING) {
        c->edges[c->current].data += extra;
    }
}

/* ---- memory that is hooked */

void counter_on_access(void *uc, int kind, uint64_t address, int size, int64_t value, void *user)
{
    (void)size;
    (void)value;
    const struct place *place = user;
    struct counter *c = place->counter;
    /* Unicorn sets ITSTATE for this hook and leaves it so: what follows an IT block would be conditional, too. */
    c->write(uc, c->it_state, &c->it_state_cleared);
    touch(c, (uint32_t)address, kind == STORE ? place->store : place->miss);
}

/* ---- memory that is a device */

/* Unicorn splits misaligned accesses to devices: loads into two aligned ones, the first of which holds the address,
 * stores into bytes. Only the first piece counts, as only the address does of a whole access. */
static inline bool goes_on(struct counter *c, const void *uc, uint32_t address, uint32_t size, bool store)
{
    int32_t whole;
    memcpy(&whole, (const char *)uc + c->split_at, sizeof whole);
    if (!whole) {
        return false;
    }
    bool more = address == c->rest;
    if (!more) {
        c->rest_end = address + (uint32_t)(store ? whole : 2 * whole);
    }
    c->rest = address + size == c->rest_end ? NOTHING : address + size;
    return more;
}

/* Memory is little-endian, and so is this machine: see library(). Sizes are written out, for speed. */
static inline uint64_t loaded(const uint8_t *from, unsigned size)
{
    uint32_t word;
    uint16_t half;
    switch (size) {
    case 4:
        memcpy(&word, from, sizeof word);
        return word;
    case 2:
        memcpy(&half, from, sizeof half);
        return half;
    default:
        return *from;
    }
}

/* Where a page is, for Unicorn's table of pages. False for all but memory: Python decides then. */
bool counter_on_page(void *uc, uint64_t page, int kind, struct translation *found, void *user)
{
    const struct counter *c = user;
    for (uint32_t index = 0; index < c->pages_count; index++) {
        const struct pages *pages = &c->pages[index];
        uint32_t offset = (uint32_t)page - pages->start;
        if (offset >= pages->size) {
            continue;
        }
        uint32_t allowed = kind == FETCH ? pages->fetch : pages->data;
        if (!(allowed & (kind == LOAD ? 1u : kind == STORE ? 2u : 4u))) {
            return false;
        }
        found->permissions = (int)allowed;
        if (kind == FETCH) {
            found->physical = page;
            if (pages->code) {
                pages->code[offset / PAGE] = 1;
            }
        } else {
            found->physical = pages->physical + offset;
            c->write(uc, c->it_state, &c->it_state_cleared); /* as for hooks of accesses */
        }
        return true;
    }
    return false;
}

uint64_t counter_on_load(void *uc, uint64_t offset, unsigned size, void *user)
{
    const struct place *place = user;
    struct counter *c = place->counter;
    uint32_t address = place->start + (uint32_t)offset;
    if (!goes_on(c, uc, address, size, false) && place->costly) {
        touch(c, address, place->miss);
    }
    return loaded(place->memory + offset, size);
}

void counter_on_store(void *uc, uint64_t offset, unsigned size, uint64_t value, void *user)
{
    const struct place *place = user;
    struct counter *c = place->counter;
    uint32_t address = place->start + (uint32_t)offset;
    if (!goes_on(c, uc, address, size, true) && place->store) {
        touch(c, address, place->store);
    }
    memcpy(place->memory + offset, &value, size);
    if (place->code[offset / PAGE]) {
        c->control(uc, c->forget_code, (uint64_t)address, (uint64_t)address + size);
    }
}

/* ---- what Python calls */

struct counter *counter_new(const uint32_t fetch[3], const uint32_t data[3], uint32_t places)
{
    struct counter *c = calloc(1, sizeof *c);
    if (!c) {
        abort();
    }
    cache_init(&c->fetch, fetch[0], fetch[1], fetch[2]);
    cache_init(&c->data, data[0], data[1], data[2]);
    c->places = calloc(places + 1u, sizeof *c->places);
    c->table = grown(NULL, &c->table_room, 4096, sizeof *c->table);
    memset(c->table, 0xFF, c->table_room * sizeof *c->table);
    c->current = c->block = c->rest = NOTHING;
    c->stamp = 1;
    c->limit = UINT64_MAX;
    return c;
}

void counter_free(struct counter *c)
{
    struct cache *caches[] = {&c->fetch, &c->data};
    for (int index = 0; index < 2; index++) {
        free(caches[index]->tags);
        free(caches[index]->filled);
        free(caches[index]->next);
    }
    free(c->edges);
    free(c->lines);
    free(c->sites);
    free(c->table);
    free(c->places);
    free(c->pages);
    free(c);
}

void counter_callbacks(struct counter *c, void *meet, void *leave)
{
    c->meet = (uint32_t(*)(uint32_t, uint32_t))meet;
    c->leave = (uint32_t(*)(uint32_t, uint32_t))leave;
}

/* number, cleared: of the register that ITSTATE is in, and what clears it. */
void counter_it_state(struct counter *c, void *write, int number, uint32_t cleared)
{
    c->write = (int (*)(void *, int, const void *))write;
    c->it_state = number;
    c->it_state_cleared = cleared;
}

/* control: uc_ctl(); forget_code: its type that throws translations away. split_at: see struct counter. */
void counter_devices(struct counter *c, void *control, uint32_t forget_code, uint32_t split_at)
{
    c->control = (int (*)(void *, unsigned, ...))control;
    c->forget_code = forget_code;
    c->split_at = split_at;
}

/* fields: start, costly, miss, store, as in struct place. memory and code: NULL for a place that is hooked. */
struct place *counter_place(struct counter *c, const uint32_t fields[4], uint8_t *memory, uint8_t *code)
{
    struct place *place = &c->places[c->place_count++];
    *place = (struct place){
        .counter = c, .start = fields[0], .costly = fields[1], .miss = fields[2], .store = fields[3],
        .memory = memory, .code = code,
    };
    return place;
}

/* fields: start .. fetch, as in struct pages. Of pages that are told twice, the first count. */
void counter_pages(struct counter *c, const uint32_t fields[4], uint64_t physical, uint8_t *code)
{
    c->pages = grown(c->pages, &c->pages_room, c->pages_count + 1, sizeof *c->pages);
    c->pages[c->pages_count++] = (struct pages){
        .start = fields[0], .size = fields[1], .data = fields[2], .fetch = fields[3],
        .physical = physical, .code = code,
    };
}

uint32_t counter_site(struct counter *c)
{
    c->sites = grown(c->sites, &c->site_room, c->site_count + 1, sizeof *c->sites);
    c->sites[c->site_count] = PREDICT_AT_FIRST;
    return c->site_count++;
}

/* fields: before .. taken, branched, as in struct edge. Returns the edge's number. */
uint32_t counter_edge(struct counter *c, const uint32_t fields[9], const struct line *lines, uint32_t line_count)
{
    c->lines = grown(c->lines, &c->line_room, c->line_count + line_count, sizeof *c->lines);
    if (line_count) {
        memcpy(c->lines + c->line_count, lines, line_count * sizeof *lines);
    }
    c->edges = grown(c->edges, &c->edge_room, c->edge_count + 1, sizeof *c->edges);
    struct edge *edge = &c->edges[c->edge_count];
    *edge = (struct edge){
        .before = fields[0], .address = fields[1], .block = fields[2], .instructions = fields[3], .cycles = fields[4],
        .mispredicted = fields[5], .site = fields[6], .taken = fields[7], .branched = fields[8],
        .first_line = c->line_count, .lines = line_count,
    };
    c->line_count += line_count;
    if (2 * (c->edge_count + 1) > c->table_room) {
        c->table = grown(c->table, &c->table_room, 2 * c->table_room, sizeof *c->table);
        memset(c->table, 0xFF, c->table_room * sizeof *c->table);
        for (uint32_t number = 0; number < c->edge_count; number++) {
            if (!c->edges[number].dead) {
                insert(c, number);
            }
        }
    }
    insert(c, c->edge_count);
    return c->edge_count++;
}

void counter_drop(struct counter *c, uint32_t number)
{
    c->edges[number].dead = 1;
}

/* All edges are unknown again; with `keep`, what they counted stays. */
void counter_forget(struct counter *c, uint32_t keep)
{
    memset(c->table, 0xFF, c->table_room * sizeof *c->table);
    c->current = c->block = NOTHING;
    if (keep) {
        for (uint32_t number = 0; number < c->edge_count; number++) {
            c->edges[number].dead = 1;
        }
    } else {
        c->edge_count = c->line_count = 0;
    }
}

void counter_restart(struct counter *c)
{
    c->executed = c->cycles = 0;
    for (uint32_t site = 0; site < c->site_count; site++) {
        c->sites[site] = PREDICT_AT_FIRST;
    }
    cache_clear(&c->fetch);
    cache_clear(&c->data);
    c->rest = NOTHING;
    c->stamp++;
}

void counter_clear_visits(struct counter *c)
{
    for (uint32_t number = 0; number < c->edge_count; number++) {
        struct edge *edge = &c->edges[number];
        edge->count = edge->data = edge->fetch = edge->branch = 0;
    }
}

void counter_visits(const struct counter *c, uint32_t number, uint64_t out[4])
{
    const struct edge *edge = &c->edges[number];
    out[0] = edge->count;
    out[1] = edge->data;
    out[2] = edge->fetch;
    out[3] = edge->branch;
}

/* out: executed, cycles, current edge. */
void counter_read(const struct counter *c, uint64_t out[3])
{
    out[0] = c->executed;
    out[1] = c->cycles;
    out[2] = c->current;
}

void counter_add(struct counter *c, int64_t instructions, int64_t cycles)
{
    c->executed += (uint64_t)instructions;
    c->cycles += (uint64_t)cycles;
}

void counter_limit(struct counter *c, uint64_t executed)
{
    c->limit = executed;
}

void counter_leave(struct counter *c, uint32_t leaving)
{
    __atomic_store_n(&c->leaving, leaving, __ATOMIC_RELEASE);
}
