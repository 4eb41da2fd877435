/* watch PART...: runs these parts and prints, ten times a second, a line
 * `PART ROUNDS` for each of their threads.
 * Everything else is called by its name. */
#include "witness.h"

static const struct {
    const char *name;
    void (*start)(void);
} PARTS[] = {
    {"memory", memory_part}, {"registers", registers_part}, {"interrupts", interrupts_part},
    {"clock", clock_part},   {"files", files_part},   {"vectors", vectors_part},
};

static const struct {
    const char *name;
    int (*main)(char **arguments);
} PROGRAMS[] = {
    {"timers", timers_main}, {"verify", verify_main},         {"random", random_main},
    {"notice", notice_main}, {"hold-agent", hold_agent_main}, {"crash-agent", crash_agent_main},
    {"unmap", unmap_main},   {"time", time_main},           {"fresh", fresh_main},
    {"traced", traced_main},
};

static struct {
    const char *_Atomic part;
    _Atomic uint64_t rounds;
} counters[16];

void progress(const char *part, uint64_t rounds)
{
    for (size_t i = 0; i < sizeof counters / sizeof *counters; i++) {
        const char *free = NULL;
        if (counters[i].part == part || (!counters[i].part &&
                                         __atomic_compare_exchange_n(&counters[i].part, &free, part,
                                                                     0, __ATOMIC_SEQ_CST,
                                                                     __ATOMIC_SEQ_CST))) {
            counters[i].rounds = rounds;
            return;
        }
    }
}

static void start_part(const char *name)
{
    for (size_t i = 0; i < sizeof PARTS / sizeof *PARTS; i++)
        if (!strcmp(name, PARTS[i].name))
            return PARTS[i].start();
    bad("watch", "there is no part %s", name);
}

static _Noreturn void watch(char **parts)
{
    /* On the first CPU, so that waking it wakes no other CPU. */
    pin(0);
    for (; *parts; parts++)
        start_part(*parts);
    for (;;) {
        for (size_t i = 0; i < sizeof counters / sizeof *counters && counters[i].part; i++)
            printf("%s %llu\n", counters[i].part, (unsigned long long)counters[i].rounds);
        fflush(stdout);
        usleep(100 * 1000);
    }
}

int main(int count, char **arguments)
{
    const char *name = count > 1 ? arguments[1] : "";
    if (!strcmp(name, "watch"))
        watch(arguments + 2);
    for (size_t i = 0; i < sizeof PROGRAMS / sizeof *PROGRAMS; i++)
        if (!strcmp(name, PROGRAMS[i].name))
            return PROGRAMS[i].main(arguments + 2);
    fprintf(stderr, "usage: witness watch PART... | PROGRAM [ARGUMENT...]\n");
    return 2;
}
