/* The monotonic clocks never go backwards: not on one CPU, and not from one CPU to
 * the other.
 * time: prints how far CLOCK_REALTIME is ahead of the host's clock, which is read at its
 * port, and CLOCK_MONOTONIC and CLOCK_BOOTTIME: three numbers, milliseconds. */
#include "witness.h"
#include <fcntl.h>
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

static int64_t now_ms(clockid_t id)
{
    return now(id, 0) / (1000 * 1000);
}

int time_main(char **arguments)
{
    enum { PORT = 0x5f8, LOOKS = 20 };
    (void)arguments;
    int64_t ahead = 0, best = INT64_MAX;
    int ports = open("/dev/port", O_RDONLY);
    /* Of the look that took least. */
    for (int i = 0; i < LOOKS; i++) {
        int64_t host, before = now(CLOCK_REALTIME, 0);
        if (pread(ports, &host, sizeof host, PORT) != sizeof host)
            bad("time", "/dev/port: %s", strerror(errno));
        int64_t took = now(CLOCK_REALTIME, 0) - before;
        if (took < best) {
            best = took;
            ahead = (before + took / 2 - host) / (1000 * 1000);
        }
    }
    printf("%lld %lld %lld\n", (long long)ahead, (long long)now_ms(CLOCK_MONOTONIC),
           (long long)now_ms(CLOCK_BOOTTIME));
    return 0;
}
