/* Every word of a large memory, again and again. In each round a random half of the
 * pages, in random order, is written: with values, and a choice, that depend on this
 * machine's name. Then every page must hold what this very machine, or before the
 * fork its parent, wrote there last. So a page that another machine's write reaches,
 * that is lost, or that is of another moment is seen, whether it is written often or
 * has stayed as it was at the fork. */
#include "witness.h"
#include <sys/mman.h>

enum { WORDS = 4096 / sizeof(uint64_t), PAGES = 32 << 8 };

static uint64_t *memory;
/* What tells the values of each page. */
static uint64_t stamps[PAGES];

static void fill(uint64_t page, uint64_t stamp)
{
    stamps[page] = stamp;
    for (uint64_t i = 0; i < WORDS; i++)
        memory[page * WORDS + i] = mix(stamp, page, i);
}

static void check(uint64_t page, uint64_t round)
{
    for (uint64_t i = 0; i < WORDS; i++) {
        uint64_t found = memory[page * WORDS + i], expected = mix(stamps[page], page, i);
        if (found != expected)
            bad("memory", "round %llu, page %llu, word %llu: %llx, not %llx",
                (unsigned long long)round, (unsigned long long)page, (unsigned long long)i,
                (unsigned long long)found, (unsigned long long)expected);
    }
}

static void *work(void *unused)
{
    for (uint64_t page = 0; page < PAGES; page++)
        fill(page, name_hash());
    for (uint64_t round = 1;; round++) {
        uint64_t stamp = mix(name_hash(), round, 0);
        /* An odd step visits each of a power of two of pages once. */
        uint64_t step = stamp | 1;
        for (uint64_t i = 0; i < PAGES; i++) {
            uint64_t page = (stamp + i * step) % PAGES;
            if (mix(stamp, page, WORDS) & 1)
                fill(page, stamp);
        }
        for (uint64_t page = 0; page < PAGES; page++)
            check(page, round);
        progress("memory", round);
    }
    return unused;
}

void memory_part(void)
{
    memory = mmap(NULL, (size_t)PAGES << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                  -1, 0);
    if (memory == MAP_FAILED)
        bad("memory", "mmap: %s", strerror(errno));
    start(work, NULL);
}
