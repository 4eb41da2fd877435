/* unmap CPUS: gives memory back, again and again, of which all CPUs must hear at once: a
 * thread of the program is busy on each. Prints `done`. */
#include "witness.h"
#include <sys/mman.h>

static _Atomic int busy;

static void *on_cpu(void *argument)
{
    pin((intptr_t)argument);
    busy++;
    for (;;)
        ;
    return NULL;
}

int unmap_main(char **arguments)
{
    enum { ROUNDS = 10, SIZE = 64 * 1024 };
    int cpus = atoi(arguments[0]);
    pin(0);
    for (intptr_t cpu = 1; cpu < cpus; cpu++)
        start(on_cpu, (void *)cpu);
    while (busy < cpus - 1)
        usleep(10 * 1000);
    for (int round = 0; round < ROUNDS; round++) {
        char *memory =
            mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED)
            bad("unmap", "mmap: %s", strerror(errno));
        memset(memory, 1, SIZE);
        if (munmap(memory, SIZE))
            bad("unmap", "munmap: %s", strerror(errno));
    }
    puts("done");
    return 0;
}
