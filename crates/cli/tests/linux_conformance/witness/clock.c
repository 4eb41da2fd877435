/* The monotonic clocks never go backwards: not on one CPU, and not from one CPU to
 * the other. */
#include "witness.h"
#include <sys/syscall.h>

static _Atomic uint64_t latest[2];

static const clockid_t CLOCKS[] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME};

static uint64_t now(clockid_t id, int by_system_call)
{
    struct timespec time;
    int result =
        by_system_call ? syscall(SYS_clock_gettime, id, &time) : clock_gettime(id, &time);
    if (result)
        bad("clock", "clock %d: %s", (int)id, strerror(errno));
    return time.tv_sec * 1000000000ULL + time.tv_nsec;
}

static void check(int which, int by_system_call)
{
    uint64_t before = latest[which];
    uint64_t time = now(CLOCKS[which], by_system_call);
    if (time < before)
        bad("clock", "clock %d went back by %llu ns", (int)CLOCKS[which],
            (unsigned long long)(before - time));
    while (before < time && !__atomic_compare_exchange_n(&latest[which], &before, time, 0,
                                                         __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        ;
}

static void *on_cpu(void *argument)
{
    int cpu = (uintptr_t)argument;
    const char *part = cpu ? "clock-1" : "clock-0";
    pin(cpu);
    for (uint64_t round = 1;; round++) {
        for (int i = 0; i < 100 * 1000; i++)
            check(i & 1, 0);
        check(0, 1);
        check(1, 1);
        progress(part, round);
    }
    return NULL;
}

void clock_part(void)
{
    start_on_both_cpus(on_cpu);
}
