/* Every word of a large memory, again and again: it must be what this very machine
 * wrote in the round before. A word that came too late or too early, or from another
 * machine, whose name is part of what it writes, is seen. */
#include "witness.h"
#include <sys/mman.h>

enum { WORDS = 4096 / sizeof(uint64_t), PAGES = 24 << 8 };

int memory_main(char **arguments)
{
    (void)arguments;
    uint64_t *memory = mmap(NULL, (size_t)PAGES << 12, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        bad("memory", "mmap: %s", strerror(errno));
    uint64_t before = 0;
    for (uint64_t round = 1;; round++) {
        uint64_t now = mix(name_hash(), round, 0);
        for (uint64_t page = 0; page < PAGES; page++) {
            uint64_t *words = memory + page * WORDS;
            for (uint64_t i = 0; i < WORDS; i++) {
                uint64_t expected = round > 1 ? mix(before, page, i) : 0;
                if (words[i] != expected)
                    bad("memory", "round %llu, page %llu, word %llu: %llx, not %llx",
                        (unsigned long long)round, (unsigned long long)page,
                        (unsigned long long)i, (unsigned long long)words[i],
                        (unsigned long long)expected);
                words[i] = mix(now, page, i);
            }
        }
        before = now;
        progress("memory", round);
    }
}
