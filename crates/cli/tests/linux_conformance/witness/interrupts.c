/* Two CPUs with nothing else to do. Each in turn sleeps for a moment, which ends with
 * an interrupt of its own timer, and wakes the other, which takes an interrupt from
 * one CPU to the other. When an interrupt is lost, neither goes on; a CPU that is
 * woken twice for one turn reports it. */
#include "witness.h"
#include <sys/eventfd.h>

static int turns[2];

static void *on_cpu(void *argument)
{
    int cpu = (uintptr_t)argument;
    const char *part = cpu ? "interrupts-1" : "interrupts-0";
    pin(cpu);
    for (uint64_t round = 1;; round++) {
        eventfd_t given;
        if (eventfd_read(turns[cpu], &given))
            bad(part, "its turn: %s", strerror(errno));
        if (given != 1)
            bad(part, "%llu turns at once", (unsigned long long)given);
        usleep(1000);
        progress(part, round);
        if (eventfd_write(turns[!cpu], 1))
            bad(part, "the other's turn: %s", strerror(errno));
    }
    return NULL;
}

void interrupts_part(void)
{
    for (int cpu = 0; cpu < 2; cpu++)
        if ((turns[cpu] = eventfd(!cpu, EFD_CLOEXEC)) < 0)
            bad("interrupts", "eventfd: %s", strerror(errno));
    start_on_both_cpus(on_cpu);
}
